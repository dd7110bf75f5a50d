# SPDX-License-Identifier: BSD-3-Clause
"""The program of the probe's worker: it runs a vCPU in a process that can be killed.

    python -m bench_lib.kvm.worker PROGRAM BACKING MODE [traced]

The process has one thread. Whenever a signal has called the vCPU back, the worker takes the signal,
writes the time to stdout, and runs the vCPU again. A time is a byte 0 and eight bytes of
nanoseconds on the monotonic clock. The first time is 0: the worker is about to run the vCPU for the
first time. If the worker cannot go on, it writes the reason as text and exits with status 1.

KVM_RUN also returns without a signal, for a tracer and for SIGSTOP and SIGCONT. The worker reports
such a return only if it is `traced`.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys

from bench_lib.errors import KickbenchError, ProbeFailed
from bench_lib.kvm import vcpu
from bench_lib.kvm.userfault import Undelivered
from bench_lib.record import Backing

SIGNALS = (signal.SIGUSR1, signal.SIGINT)

PROGRAMS = {
    "read": vcpu.READ,
    "write": vcpu.WRITE,
    "interrupts": vcpu.WRITE_WITH_INTERRUPTS,
    "string": vcpu.STRING_OUT,
    "spin": vcpu.SPIN,
}

MOMENT = struct.Struct("<BQ")
"""A time as the worker writes it. Text never starts with a byte 0."""

PRESENT = "present"
"""The mode of memory without userfaultfd, where every page is present."""


def main(program: str, backing: str, mode: str, traced: str = "") -> None:
    """Run the vCPU until this process is killed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    if mode == PRESENT:
        memory = mmap.mmap(-1, vcpu.HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    else:
        undelivered = Undelivered(Backing(backing), mode)
        memory = undelivered.memory
    machine = vcpu.VirtualMachine(PROGRAMS[program], memory)
    machine.unblock(SIGNALS)
    parent = os.getppid()
    os.write(1, MOMENT.pack(0, 0))
    while True:
        back_ns = machine.run()
        # The signal is taken before the time is written: the probe sends the next signal when it
        # has read the time, and two pending signals of one number would be one.
        taken = signal.sigtimedwait(SIGNALS, 0)
        if taken is not None and taken.si_pid != parent:
            raise ProbeFailed(
                f"Process {taken.si_pid} signalled the worker too, so it is unknown which signal "
                "called the vCPU back."
            )
        if taken is not None or traced:
            os.write(1, MOMENT.pack(0, back_ns))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (KickbenchError, OSError) as error:
        sys.exit(str(error))
