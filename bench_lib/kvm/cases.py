# SPDX-License-Identifier: BSD-3-Clause
"""The cases of the probe: how a vCPU gets stuck, and what the probe does to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench_lib.errors import UnknownCase
from bench_lib.kvm.worker import PRESENT
from bench_lib.record import Backing, Entry, WaitsFor
from bench_lib.storage.fuse import Stall


class Wake(StrEnum):
    """What the probe does to a stuck vCPU, and times."""

    SIGUSR1 = "sigusr1"
    SIGINT = "sigint"
    PTRACE = "ptrace"
    """PTRACE_INTERRUPT; the wake ends when the thread has stopped."""
    SIGKILL = "sigkill"
    """The wake ends when the process is reaped."""
    MEMSLOT = "memslot"
    """The vCPU is not called: another thread adds a memory slot, which has to wait until no vCPU
    uses the old ones. This ends when the ioctl of that thread returns."""
    DEAD_SERVER = "dead-server"
    """The vCPU is not called: the userfaultfd is closed, as when the process that should deliver
    the page dies. This ends when the guest has read the page."""

    @property
    def calls(self) -> bool:
        """Whether the vCPU's thread is told to leave the kernel."""
        return self not in {Wake.MEMSLOT, Wake.DEAD_SERVER}

    @property
    def once(self) -> bool:
        """Whether a worker can do this only once."""
        return self in {Wake.SIGKILL, Wake.DEAD_SERVER}


@dataclass(frozen=True)
class ProbeCase:
    """One experiment.

    :ivar program: the guest program that the worker runs, a key of `programs.PROGRAMS`.
    :ivar path: the fault path that the vCPU must be stuck on; `none` for a vCPU that runs.
    :ivar mode: the userfaultfd mode of the memory; `present` for memory without userfaultfd; or
        how a FUSE server stalls whose file is the memory.
    """

    name: str
    program: str
    path: Entry
    wake: Wake = Wake.SIGUSR1
    backing: Backing = Backing.ANONYMOUS
    mode: str | Stall = "missing"

    @property
    def waits_for(self) -> WaitsFor:
        """What the vCPU must wait for there."""
        if isinstance(self.mode, Stall):
            # A read ahead fills pages that are locked, and the fault waits for the lock.
            return WaitsFor.FUSE if self.mode is Stall.SYNC else WaitsFor.PAGE_CACHE
        on_page = self.path in {Entry.GUP, Entry.UACCESS, Entry.GPC}
        return WaitsFor.USERFAULT if on_page else WaitsFor.NOTHING


def _wakes(name: str, program: str, path: Entry, mode: str | Stall = "missing") -> list[ProbeCase]:
    """Return a case for each way to call the vCPU back; the first one has no suffix."""
    return [
        ProbeCase(f"{name}{suffix}", program, path, wake, mode=mode)
        for wake in Wake
        if wake.calls
        for suffix in ("" if wake is Wake.SIGUSR1 else f"-{wake}",)
    ]


CASES = (
    ProbeCase("healthy", "spin", Entry.NONE, mode=PRESENT),
    ProbeCase("healthy-memslot", "spin", Entry.NONE, Wake.MEMSLOT, mode=PRESENT),
    ProbeCase("gup-read", "read", Entry.GUP),
    *_wakes("gup-write", "write", Entry.GUP),
    *(
        ProbeCase(f"gup-{access}-{backing}{suffix}", access, Entry.GUP, backing=backing, mode=mode)
        for backing in (Backing.MEMFD, Backing.HUGETLB)
        for mode, suffix in (("missing", ""), ("minor", "-minor"))
        for access in ("read", "write")
    ),
    ProbeCase("gup-write-memslot", "write", Entry.GUP, Wake.MEMSLOT),
    ProbeCase("dead-server", "print", Entry.GUP, Wake.DEAD_SERVER),
    *_wakes("pre-fault", "pre-fault", Entry.GUP),
    ProbeCase("async-pf", "interrupts", Entry.ASYNC_PF),
    ProbeCase("async-pf-memslot", "interrupts", Entry.ASYNC_PF, Wake.MEMSLOT),
    *_wakes("uaccess", "string", Entry.UACCESS),
    ProbeCase("uaccess-memslot", "string", Entry.UACCESS, Wake.MEMSLOT),
    *_wakes("steal-time", "steal-time", Entry.UACCESS),
    *_wakes("pv-eoi", "pv-eoi", Entry.UACCESS),
    *_wakes("async-pf-data", "async-pf-data", Entry.UACCESS),
    *_wakes("kvmclock", "kvmclock", Entry.GPC),
    *_wakes("gup-write-fuse", "write", Entry.GUP, Stall.HOLD),
    *_wakes("gup-write-fuse-sync", "write", Entry.GUP, Stall.SYNC),
    *_wakes("steal-time-fuse", "steal-time", Entry.UACCESS, Stall.HOLD),
)
"""Every case, by a name that has the fault path or the structure that KVM shares with the guest,
and the memory and the wake unless they are the defaults."""

BY_NAME = {case.name: case for case in CASES}


def named(names: Sequence[str]) -> list[ProbeCase]:
    """Return the cases with these names, or all cases if `names` is empty.

    :raise UnknownCase: there is no case of such a name; the message lists all names.
    """
    for name in names:
        if name not in BY_NAME:
            raise UnknownCase(f"There is no case {name!r}; the cases are {', '.join(BY_NAME)}.")
    return [BY_NAME[name] for name in names] or list(CASES)
