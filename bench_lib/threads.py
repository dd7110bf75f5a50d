"""What the kernel says of a process's threads, and what that says of how a vCPU is stuck."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_lib.errors import EvidenceHidden, NotRoot
from bench_lib.record import Entry, Role, Thread, WaitsFor

_libc = ctypes.CDLL(None, use_errno=True)

_FRAME = re.compile(r"^\[<[0-9a-fx]+>\] ([^+\s]+)", re.MULTILINE)

# Which functions on a vCPU thread's kernel stack tell the path. KVM's callers of hva_to_pfn()
# have other names from about v6.13 on (see __kvm_faultin_pfn); these have been there throughout.
_GUP = frozenset({"hva_to_pfn", "hva_to_pfn_slow", "__get_user_pages"})
_UACCESS = frozenset(
    {
        "__kvm_read_guest_page",
        "__kvm_write_guest_page",
        "kvm_read_guest",
        "kvm_vcpu_read_guest",
        "kvm_vcpu_read_guest_page",
        "kvm_fetch_guest_virt",
        "kvm_read_guest_virt_helper",
        "x86_emulate_insn",
        "x86_decode_insn",
    }
)
_ASYNC_PF = frozenset({"kvm_vcpu_block", "kvm_vcpu_halt"})


def fault_path(stack: tuple[str, ...]) -> Entry:
    """How a vCPU thread with this kernel stack is stuck.

    A thread in get_user_pages() is never also in a kernel access to guest memory, but its
    callers may have been in the emulator; so the order matters.

    :param stack: functions, innermost first.
    """
    functions = {function.split(".")[0] for function in stack}  # x.isra.0 is x
    if functions & _GUP and "handle_userfault" in functions:
        return Entry.GUP
    if functions & _UACCESS:
        return Entry.UACCESS
    if functions & _ASYNC_PF:
        return Entry.ASYNC_PF
    return Entry.NONE


ASLEEP = frozenset({"S", "D"})
"""States that a thread in handle_userfault() can be in: interruptible or killable sleep."""

RUNNING = "R"

TRACED = frozenset({"t", "T"})
"""States of a thread that is stopped: it has come when it was called."""

SPINNING_SHARE = 0.2
"""Threads that have together burnt more of a CPU's time than this spin. Those that sleep burn none;
those that spin take all there is, which may be one CPU for several of them and for others."""


@dataclass(frozen=True)
class ThreadState:
    """One thread at one moment.

    :ivar state: R, S, D, ... as in proc(5).
    :ivar wchan: the kernel function that it sleeps in, "0" if it does not sleep.
    :ivar stack: its kernel stack, innermost first; empty while it runs in user mode or guest.
    :ivar cpu_ns: CPU time of its life so far.
    :ivar called: whether a signal or a tracer waits for it to leave the kernel.
    """

    tid: int
    state: str
    wchan: str
    stack: tuple[str, ...]
    cpu_ns: int
    called: bool = False

    @property
    def fault_path(self) -> Entry:
        return fault_path(self.stack)

    def same_sleep(self, other: ThreadState) -> bool:
        """Whether `other` shows this thread in the very same place, not having run between."""
        return self == other


def observe(pid: int, tid: int) -> ThreadState:
    """Look at a thread.

    The files are read one after the other, so a thread that runs may have moved between them.
    Two equal looks say that it has not: one that had run would have burnt CPU time.

    :raise ProcessLookupError: there is no such thread.
    :raise NotRoot: its kernel stack may not be read.
    :raise EvidenceHidden: this kernel has no such file.
    """
    folder = Path(f"/proc/{pid}/task/{tid}")
    try:
        stack = tuple(_FRAME.findall((folder / "stack").read_text()))
        wchan = (folder / "wchan").read_text()
        stat = (folder / "stat").read_text()
        status = (folder / "status").read_text()
        cpu_ns = int((folder / "schedstat").read_text().split()[0])
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
    # The name is in parentheses and may hold any character, so count from its end.
    state = stat.rpartition(")")[2].split()[0]
    return ThreadState(
        tid=tid,
        state=state,
        wchan=wchan or "0",
        stack=stack,
        cpu_ns=cpu_ns,
        called=bool(_signals(status)) or (_tracer(status) != 0 and state not in TRACED),
    )


def spin(before: Sequence[ThreadState], after: Sequence[ThreadState], elapsed_ns: int) -> bool:
    """Whether threads that are called have spun between two looks at them, `elapsed_ns` apart.

    One that burns as much and is not called runs its guest.
    """
    burnt_ns = sum(
        now.cpu_ns - then.cpu_ns for then, now in zip(before, after, strict=True) if now.called
    )
    return burnt_ns > SPINNING_SHARE * elapsed_ns


def _signals(status: str) -> int:
    """Of signals sent to a thread alone, the mask of those that wait; see proc(5)."""
    return int(status.partition("SigPnd:")[2].split()[0], 16)


def _tracer(status: str) -> int:
    return int(status.partition("TracerPid:")[2].split()[0])


def tracer_of(pid: int, tid: int) -> int:
    """The process that traces a thread; 0 if none does.

    :raise ProcessLookupError: there is no such thread.
    """
    return _tracer(_status(pid, tid))


def _status(pid: int, tid: int) -> str:
    try:
        return Path(f"/proc/{pid}/task/{tid}/status").read_text()
    except FileNotFoundError:
        raise ProcessLookupError(f"no thread {tid} in process {pid}") from None


def kick(pid: int, tid: int, number: signal.Signals) -> int:
    """Send a signal to one thread, tgkill(2); the moment just before, monotonic nanoseconds.

    :raise ProcessLookupError: there is no such thread.
    """
    send, plain = _libc.tgkill, int(number)
    sent_ns = time.monotonic_ns()
    failed = send(pid, tid, plain)
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "tgkill")
    return sent_ns


def pending(pid: int, tid: int, number: signal.Signals) -> bool:
    """Whether a signal sent to this thread alone still waits for it to leave the kernel.

    :raise ProcessLookupError: there is no such thread.
    """
    return bool(_signals(_status(pid, tid)) >> (number - 1) & 1)


def evidence(vcpu: int, seen: ThreadState, before: ThreadState | None = None) -> Thread:
    """The record's form of what was seen of a vCPU's thread.

    :param before: the look before the request, where `seen` is the one after it.
    """
    return Thread(
        seen.tid,
        Role.VCPU,
        vcpu,
        "",
        seen.state,
        seen.wchan,
        seen.stack,
        seen.fault_path,
        WaitsFor.USERFAULT if "handle_userfault" in seen.stack else WaitsFor.NOTHING,
        called=seen.called,
        cpu_ns=0 if before is None else seen.cpu_ns - before.cpu_ns,
    )
