# SPDX-License-Identifier: BSD-3-Clause
"""One look at a thread, or at all threads of a process.

Only files in /proc are read that the kernel provides without the mmap_lock of the process. Reading
others, such as cmdline and environ, blocks while a stuck thread holds that lock.

The files that are read here block too while the process is in execve(2), which holds its
exec_update_lock and may wait for a file system (stat, stack, wchan and syscall; measured on Linux
6.18). Code that looks at processes that kickbench did not start does so in a child process; see
`explain.bounded`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench_lib import libc
from bench_lib.errors import EvidenceHidden, NotRoot
from bench_lib.record import Entry, WaitsFor
from bench_lib.threads import stack as stacks
from bench_lib.threads import workers

ASLEEP = frozenset({"S", "D"})
"""States of a thread that sleeps: interruptibly (S), or uninterruptibly (D)."""

RUNNING = "R"
"""The state of a thread that runs or is ready to run."""

_PROCESSOR = 36
"""The index of the CPU among the fields of /proc/PID/task/TID/stat that follow the name; see
proc(5)."""

TRACED = frozenset({"t", "T"})
"""States of a thread that is stopped, by a tracer (t) or by a signal (T). Such a thread has left
the kernel's wait."""

SPINNING_SHARE = 0.2
"""Called threads spin if together they ran, or waited for a CPU, for more than this share of the
time. Threads that sleep do neither."""

IN_A_PAGE = frozenset({Entry.GUP, Entry.UACCESS, Entry.GPC, Entry.ASYNC_PF})
"""The ways in which a vCPU thread gets into a wait for a page of its guest."""


@dataclass(frozen=True)
class ThreadState:
    """One thread at one moment.

    :ivar state: the state letter (R, S, D, ...) of proc(5).
    :ivar wchan: the kernel function that the thread sleeps in, "0" if it does not sleep.
    :ivar stack: the kernel stack, innermost function first; empty in user mode and in the guest.
    :ivar cpu_ns: the CPU time that the thread has used so far.
    :ivar called: whether a signal is pending for the thread or a tracer waits for it, so that it
        should leave the kernel.
    :ivar only_traced: whether the thread counts as called only because a tracer is attached. That
        tracer may have interrupted the thread, or may let it run.
    :ivar pid: the id of the process, which is also the id of its main thread.
    :ivar name: the name of the thread (comm).
    :ivar signals: names of the signals that are pending for this thread alone.
    :ivar pending: names of the signals that are pending for the whole process.
    :ivar delayed_ns: the time that the thread was ready to run and waited for a CPU.
    :ivar fetched: whether a kernel worker fetches a page for the process, so that a vCPU thread
        that KVM has halted may wait for that page; see `workers`.
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
    fetched: bool = False

    @property
    def awake_ns(self) -> int:
        """The time that the thread did not sleep: it ran, or waited for a CPU."""
        return self.cpu_ns + self.delayed_ns

    @property
    def entry(self) -> Entry:
        """How the thread got into the kernel's wait; a running thread waits in no system call."""
        found = stacks.entry(self.stack)
        if self.state == RUNNING and found in {Entry.SYSCALL, Entry.HALTED}:
            return Entry.NONE
        return Entry.ASYNC_PF if found is Entry.HALTED and self.fetched else found

    @property
    def waits_for(self) -> WaitsFor:
        """What the thread waits for. A running thread does not wait for a lock."""
        found = stacks.waits_for(self.stack)
        waits = self.state != RUNNING or found is not WaitsFor.LOCK
        return found if waits else WaitsFor.NOTHING

    @property
    def fault_path(self) -> Entry:
        """How the thread is stuck on a page of the guest; `none` if it is not."""
        return self.entry if self.entry in IN_A_PAGE else Entry.NONE

    def same_sleep(self, other: ThreadState) -> bool:
        """Whether `other` shows the same thread in the same place, and it has not run between."""
        return self == other


def observe(pid: int, tid: int, *, with_stack: bool = True) -> ThreadState:
    """Look at a thread.

    The files are read one after the other, so they may describe different moments of a thread that
    runs. If two looks are equal, the thread has not run between: it would have used CPU time.

    :param with_stack: whether to read the kernel stack, which only root may do.
    :raise ProcessLookupError: there is no such thread.
    :raise NotRoot: the kernel refused to show the kernel stack.
    :raise EvidenceHidden: this kernel lacks one of the files.
    """
    folder = Path(f"/proc/{pid}/task/{tid}")
    try:
        stack = stacks.parse((folder / "stack").read_text()) if with_stack else ()
        wchan = (folder / "wchan").read_text()
        # The name of a thread may contain any bytes.
        stat = (folder / "stat").read_text(errors="replace")
        status = (folder / "status").read_text(errors="replace")
        cpu_ns, delayed_ns, _ = map(int, (folder / "schedstat").read_text().split())
    except PermissionError:
        raise NotRoot(
            f"The kernel does not show the stack of thread {tid}: run as root, and not in a "
            "container that hides stacks."
        ) from None
    except FileNotFoundError as error:
        if folder.exists():
            raise EvidenceHidden(
                f"This kernel has no {error.filename}; use a kernel that was built with "
                "CONFIG_STACKTRACE and CONFIG_SCHED_INFO."
            ) from None
        raise ProcessLookupError(f"no thread {tid} in process {pid}") from None
    name = stat.partition("(")[2].rpartition(")")[0]
    state = _after_name(stat)[0]
    if wchan in {"", "0"} and stack and state in ASLEEP:
        # Since Linux 6.12 a thread that sleeps may stay in the queue of its CPU for a while, and
        # wchan is 0 then: get_wchan() looks at on_rq, which "delayed dequeue" leaves set.
        wchan = stack[0]
    own, shared, blocked = _own_pending(status), _mask(status, "ShdPnd"), _mask(status, "SigBlk")
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
    """Look at every thread of a process, the main thread first. Leave out threads that end
    meanwhile.

    :param with_stacks: whether to read the kernel stacks, which only root may do.
    :raise ProcessLookupError: there is no such process.
    :raise NotRoot: the kernel refused to show the kernel stacks.
    :raise EvidenceHidden: this kernel lacks a file that evidence is taken from.
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
    return told_apart(seen)


def told_apart(looks: Sequence[ThreadState]) -> list[ThreadState]:
    """Find out which halted vCPU threads of one process wait for a page, and return all looks.

    There has to be a worker for each halted thread. With fewer workers, some of the threads are
    idle, and nothing shows which, so that none of them counts as stuck. This reads the kernel's
    workers once, and only if KVM has halted a thread.
    """
    halted = sum(each.entry is Entry.HALTED for each in looks)
    if not halted or workers.count(looks[0].pid) < halted:
        return list(looks)
    return [replace(each, fetched=True) if each.entry is Entry.HALTED else each for each in looks]


def spin(before: Sequence[ThreadState], after: Sequence[ThreadState], elapsed_ns: int) -> bool:
    """Whether the called threads have spun between two looks.

    A thread that uses as much CPU time and is not called just runs its guest.

    :param after: the second look at the threads of `before`, in the same order.
    :param elapsed_ns: nanoseconds between the looks.
    """
    awake_ns = sum(
        now.awake_ns - then.awake_ns for then, now in zip(before, after, strict=True) if now.called
    )
    return awake_ns > SPINNING_SHARE * elapsed_ns


def processor(pid: int, tid: int) -> int:
    """Return the CPU that a thread runs on, or ran on last.

    :raise ProcessLookupError: there is no such thread.
    """
    try:
        stat = Path(f"/proc/{pid}/task/{tid}/stat").read_text(errors="replace")
    except FileNotFoundError:
        raise ProcessLookupError(f"no thread {tid} in process {pid}") from None
    return int(_after_name(stat)[_PROCESSOR])


def _after_name(stat: str) -> list[str]:
    """Return the fields of a stat file that follow the name. The name may contain any character."""
    return stat.rpartition(")")[2].split()


def _mask(status: str, field: str) -> int:
    """Return a signal mask of a status file, such as SigPnd; see proc(5)."""
    return int(status.partition(f"{field}:")[2].split()[0], 16)


def _own_pending(status: str) -> int:
    """Return the mask of pending signals that were sent to the thread alone."""
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
    """Return the id of the process that traces a thread, or 0 if none does.

    :raise ProcessLookupError: there is no such thread.
    """
    return _tracer(_status(pid, tid))


def _status(pid: int, tid: int) -> str:
    try:
        return Path(f"/proc/{pid}/task/{tid}/status").read_text(errors="replace")
    except FileNotFoundError:
        raise ProcessLookupError(f"no thread {tid} in process {pid}") from None


def kick(pid: int, tid: int, number: signal.Signals) -> int:
    """Send a signal to one thread with tgkill(2).

    :return: the time just before the call, in nanoseconds of the monotonic clock.
    :raise ProcessLookupError: there is no such thread.
    """
    # Everything is looked up before the clock is read.
    send, plain = libc.LIBC.tgkill, int(number)
    sent_ns = time.monotonic_ns()
    failed = send(pid, tid, plain)
    if failed:
        raise libc.error("tgkill")
    return sent_ns


def pending(pid: int, tid: int, number: signal.Signals) -> bool:
    """Whether a signal that was sent to this thread alone is still pending.

    :raise ProcessLookupError: there is no such thread.
    """
    return bool(_own_pending(_status(pid, tid)) >> (number - 1) & 1)
