# SPDX-License-Identifier: BSD-3-Clause
"""One look at a thread, or at all threads of a process.

Only files are read that the kernel gives without the process's mmap_lock. Others (cmdline, environ)
block for as long as a stuck thread holds it. While a process executes another program, which may
wait for a file system, its exec_update_lock is held, and the files that are read here block as well
(stat, stack, wchan, syscall; measured on 6.18): who looks at strangers does so in a child, see
`explain.bounded`.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_lib import libc
from bench_lib.errors import EvidenceHidden, NotRoot
from bench_lib.record import Entry, WaitsFor
from bench_lib.threads import stack as stacks

_FRAME = re.compile(r"^\[<[0-9a-fx]+>\] ([^+\s]+)", re.MULTILINE)

ASLEEP = frozenset({"S", "D"})
"""States of a thread that sleeps: interruptibly, or not."""

RUNNING = "R"

_PROCESSOR = 36
"""Which field of a thread's stat is its CPU, counted from the one behind the name; see proc(5)."""

TRACED = frozenset({"t", "T"})
"""States of a thread that is stopped: it has come when it was called."""

SPINNING_SHARE = 0.2
"""Threads that have together run, or waited for a CPU, for more of the time than this spin. Those
that sleep do neither."""

IN_A_PAGE = frozenset({Entry.GUP, Entry.UACCESS, Entry.GPC, Entry.ASYNC_PF})
"""How a vCPU thread enters a wait for a page of its guest."""


@dataclass(frozen=True)
class ThreadState:
    """One thread at one moment.

    :ivar state: R, S, D, ... as in proc(5).
    :ivar wchan: the kernel function that it sleeps in, "0" if it does not sleep.
    :ivar stack: its kernel stack, innermost first; empty while it runs in user mode or guest.
    :ivar cpu_ns: CPU time of its life so far.
    :ivar called: whether a signal or a tracer waits for it to leave the kernel.
    :ivar only_traced: whether no signal does. The tracer may have called it, or let it run.
    :ivar pid: of its process, whose main thread has the same number.
    :ivar name: as the kernel has it (comm).
    :ivar signals: names of the signals that wait for this thread alone.
    :ivar pending: names of the signals that wait for its process.
    :ivar delayed_ns: time of its life that it was ready to run and waited for a CPU.
    """

    tid: int
    state: str
    wchan: str
    stack: tuple[str, ...]
    cpu_ns: int
    called: bool = False
    only_traced: bool = False
    pid: int = 0
    name: str = ""
    signals: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    delayed_ns: int = 0

    @property
    def awake_ns(self) -> int:
        """Time of its life that it did not sleep, however many others wanted its CPU."""
        return self.cpu_ns + self.delayed_ns

    @property
    def entry(self) -> Entry:
        """How it got into the kernel's wait. A thread that runs is in no system call's wait."""
        found = stacks.entry(self.stack)
        waits = self.state != RUNNING or found is not Entry.SYSCALL
        return found if waits else Entry.NONE

    @property
    def waits_for(self) -> WaitsFor:
        """What it waits for. A thread that runs waits for no lock."""
        found = stacks.waits_for(self.stack)
        waits = self.state != RUNNING or found is not WaitsFor.LOCK
        return found if waits else WaitsFor.NOTHING

    @property
    def fault_path(self) -> Entry:
        """How it is stuck in a page of the guest; `none` where it is not."""
        return self.entry if self.entry in IN_A_PAGE else Entry.NONE

    def same_sleep(self, other: ThreadState) -> bool:
        """Whether `other` shows this thread in the very same place, not having run between."""
        return self == other


def observe(pid: int, tid: int, *, with_stack: bool = True) -> ThreadState:
    """Look at a thread.

    The files are read one after the other, so a thread that runs may have moved between them.
    Two equal looks say that it has not: one that had run would have burnt CPU time.

    :param with_stack: whether to read its kernel stack, which only root may.
    :raise ProcessLookupError: there is no such thread.
    :raise NotRoot: its kernel stack may not be read.
    :raise EvidenceHidden: this kernel has no such file.
    """
    folder = Path(f"/proc/{pid}/task/{tid}")
    try:
        stack = tuple(_FRAME.findall((folder / "stack").read_text())) if with_stack else ()
        wchan = (folder / "wchan").read_text()
        # Its name may be any bytes.
        stat = (folder / "stat").read_text(errors="replace")
        status = (folder / "status").read_text(errors="replace")
        cpu_ns, delayed_ns, _ = map(int, (folder / "schedstat").read_text().split())
    except PermissionError:
        raise NotRoot(
            f"The kernel does not show the stack of thread {tid}: run as root, outside of a "
            "container that hides it."
        ) from None
    except FileNotFoundError as error:
        if folder.exists():
            raise EvidenceHidden(
                f"This kernel has no {error.filename}; it takes one that was built with "
                "CONFIG_STACKTRACE and CONFIG_SCHED_INFO."
            ) from None
        raise ProcessLookupError(f"no thread {tid} in process {pid}") from None
    name = stat.partition("(")[2].rpartition(")")[0]
    state = _after_name(stat)[0]
    own, shared, blocked = _signals(status), _mask(status, "ShdPnd"), _mask(status, "SigBlk")
    signalled = bool(own or shared & ~blocked)
    traced = _tracer(status) != 0 and state not in TRACED
    return ThreadState(
        tid=tid,
        state=state,
        wchan=wchan or "0",
        stack=stack,
        cpu_ns=cpu_ns,
        called=signalled or traced,
        only_traced=traced and not signalled,
        pid=pid,
        name=name,
        signals=_names(own),
        pending=_names(shared),
        delayed_ns=delayed_ns,
    )


def observe_all(pid: int, *, with_stacks: bool = True) -> list[ThreadState]:
    """Look at every thread of a process, the main thread first, without those that end meanwhile.

    :param with_stacks: whether to read their kernel stacks, which only root may.
    :raise ProcessLookupError: there is no such process.
    :raise NotRoot: their kernel stacks may not be read.
    :raise EvidenceHidden: this kernel does not show what evidence is made of.
    """
    seen = []
    try:
        tids = sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208
    except FileNotFoundError:
        tids = []
    for tid in sorted(tids, key=lambda tid: tid != pid):
        try:
            seen.append(observe(pid, tid, with_stack=with_stacks))
        except ProcessLookupError:
            continue
    if not seen:
        raise ProcessLookupError(f"no process {pid}")
    return seen


def spin(before: Sequence[ThreadState], after: Sequence[ThreadState], elapsed_ns: int) -> bool:
    """Whether threads that are called have spun between two looks at them, `elapsed_ns` apart.

    One that runs as long and is not called runs its guest.
    """
    awake_ns = sum(
        now.awake_ns - then.awake_ns for then, now in zip(before, after, strict=True) if now.called
    )
    return awake_ns > SPINNING_SHARE * elapsed_ns


def processor(pid: int, tid: int) -> int:
    """The CPU that a thread runs on, or ran on last.

    :raise ProcessLookupError: there is no such thread.
    """
    try:
        stat = Path(f"/proc/{pid}/task/{tid}/stat").read_text(errors="replace")
    except FileNotFoundError:
        raise ProcessLookupError(f"no thread {tid} in process {pid}") from None
    return int(_after_name(stat)[_PROCESSOR])


def _after_name(stat: str) -> list[str]:
    """The fields of a stat file that follow the name, which may hold any character."""
    return stat.rpartition(")")[2].split()


def _mask(status: str, field: str) -> int:
    """A set of signals in a thread's status; see proc(5)."""
    return int(status.partition(f"{field}:")[2].split()[0], 16)


def _signals(status: str) -> int:
    """Of signals sent to a thread alone, the mask of those that wait."""
    return _mask(status, "SigPnd")


def _names(mask: int) -> tuple[str, ...]:
    return tuple(_name(number) for number in range(1, 65) if mask >> (number - 1) & 1)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def _tracer(status: str) -> int:
    return int(status.partition("TracerPid:")[2].split()[0])


def tracer_of(pid: int, tid: int) -> int:
    """The process that traces a thread; 0 if none does.

    :raise ProcessLookupError: there is no such thread.
    """
    return _tracer(_status(pid, tid))


def _status(pid: int, tid: int) -> str:
    try:
        return Path(f"/proc/{pid}/task/{tid}/status").read_text(errors="replace")
    except FileNotFoundError:
        raise ProcessLookupError(f"no thread {tid} in process {pid}") from None


def kick(pid: int, tid: int, number: signal.Signals) -> int:
    """Send a signal to one thread, tgkill(2); the moment just before, monotonic nanoseconds.

    :raise ProcessLookupError: there is no such thread.
    """
    send, plain = libc.LIBC.tgkill, int(number)
    sent_ns = time.monotonic_ns()
    failed = send(pid, tid, plain)
    if failed:
        raise libc.error("tgkill")
    return sent_ns


def pending(pid: int, tid: int, number: signal.Signals) -> bool:
    """Whether a signal sent to this thread alone still waits for it to leave the kernel.

    :raise ProcessLookupError: there is no such thread.
    """
    return bool(_signals(_status(pid, tid)) >> (number - 1) & 1)
