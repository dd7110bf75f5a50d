# SPDX-License-Identifier: BSD-3-Clause
"""The program of the probe's worker: it runs a vCPU in a process that can be killed.

    python -m bench_lib.kvm.worker PROGRAM BACKING MODE [traced] [helped]

MODE is a mode of userfaultfd, or `present`, or the path of a file to map.

Whenever a signal has called the vCPU back, the worker takes the signal, writes a message to stdout,
and runs the vCPU again. If the worker cannot go on, it writes the reason as text and exits with
status 1.

KVM_RUN also returns without a signal, for a tracer and for SIGSTOP and SIGCONT. The worker reports
such a return only if it is `traced`.

The process has one thread. If it is `helped`, a second thread makes a system call for each byte on
stdin, and writes a message once the call has returned.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path

from bench_lib.errors import KickbenchError, ProbeFailed
from bench_lib.kvm import programs, timed, vcpu
from bench_lib.kvm.timed import Clock
from bench_lib.kvm.userfault import Undelivered
from bench_lib.kvm.vcpu import VirtualMachine
from bench_lib.record import Backing

SIGNALS = (signal.SIGUSR1, signal.SIGINT)

MESSAGE = struct.Struct("<BQQ")
"""A `Kind`, and two numbers."""


class Kind(IntEnum):
    """What a message reports. Text never starts with such a byte.

    Times are in nanoseconds of the monotonic clock.
    """

    BACK = 0
    """KVM_RUN: when it began and returned. Both are 0 in the first message: the worker is about to
    run the vCPU for the first time."""
    PRINTED = 1
    """When KVM_RUN returned because the guest has printed a byte, and the byte. The vCPU does not
    run again."""
    CALLED = 2
    """The system call of the second thread: when it began and returned."""


class Command(IntEnum):
    """What the second thread does."""

    ADD_MEMORY = ord("m")
    """Add a memory slot to the virtual machine. It is removed again without a message."""
    CLOSE_USERFAULTFD = ord("u")


PRESENT = "present"
"""The mode of memory without userfaultfd, where every page is present."""

HELPER = "kb-helper"
"""The name of the second thread."""


def main(program: str, backing: str, mode: str, *options: str) -> None:
    """Run the vCPU until this process is killed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    undelivered = None
    if mode == PRESENT:
        memory = mmap.mmap(-1, programs.HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    elif mode.startswith("/"):
        memory = _mapped(mode)
    else:
        undelivered = Undelivered(Backing(backing), mode)
        memory = undelivered.memory
    guest = programs.PROGRAMS[program]
    machine = vcpu.VirtualMachine(guest, memory)
    machine.unblock(SIGNALS)
    if "helped" in options:
        ready = threading.Event()
        threading.Thread(target=_help, args=(machine, undelivered, ready), daemon=True).start()
        ready.wait()
    taken = _handled() if guest.pre_fault else _pending(os.getppid())
    clock = Clock()
    _tell(Kind.BACK, 0, 0)
    while True:
        run = machine.run(clock)
        if run.result == 0:
            _tell(Kind.PRINTED, run.ended_ns, machine.printed)
            signal.pause()
        # The signal is taken before the message is written: the probe sends the next signal when it
        # has read the message, and two pending signals of one number would be one.
        if taken() or "traced" in options:
            _tell(Kind.BACK, run.began_ns, run.ended_ns)


def _mapped(path: str) -> mmap.mmap:
    """Map a file that is the guest's memory."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return mmap.mmap(file, programs.HUGE_PAGE)
    finally:
        os.close(file)


def _pending(parent: int) -> Callable[[], bool]:
    """Return a function that takes a pending signal, and returns whether there was one.

    The function raises ProbeFailed if the signal did not come from `parent`.
    """

    def taken() -> bool:
        info = signal.sigtimedwait(SIGNALS, 0)
        if info is not None and info.si_pid != parent:
            raise ProbeFailed(
                f"Process {info.si_pid} signalled the worker too, so it is unknown which signal "
                "called the vCPU back."
            )
        return info is not None

    return taken


def _handled() -> Callable[[], bool]:
    """Unblock the signals, and return a function that returns whether one was handled since.

    KVM unblocks signals during KVM_RUN only, and a blocked signal wakes no thread.
    """
    numbers: list[int] = []
    for each in SIGNALS:
        signal.signal(each, lambda number, _: numbers.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return lambda: bool(numbers) and bool(numbers.pop())


def _help(machine: VirtualMachine, undelivered: Undelivered | None, ready: threading.Event) -> None:
    """Carry out the commands on stdin. An error ends the process.

    :param ready: set when the thread has its name.
    """
    Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(HELPER)
    clock = Clock()
    ready.set()
    try:
        while command := os.read(0, 1):
            if command[0] == Command.ADD_MEMORY:
                call = machine.add_extra(clock)
                call.check("KVM_SET_USER_MEMORY_REGION")
                _tell(Kind.CALLED, call.began_ns, call.ended_ns)
                machine.remove_extra()
            elif undelivered is not None:
                call = clock(timed.CLOSE, undelivered.fd)
                _tell(Kind.CALLED, call.began_ns, call.ended_ns)
    except OSError as error:
        os.write(1, str(error).encode())
        os._exit(1)


def _tell(kind: Kind, first: int, second: int) -> None:
    os.write(1, MESSAGE.pack(kind, first, second))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (KickbenchError, OSError) as error:
        sys.exit(str(error))
