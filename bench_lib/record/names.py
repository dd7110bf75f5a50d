# SPDX-License-Identifier: BSD-3-Clause
"""The words that records are written in. Their order is the order in which tables show them."""

from __future__ import annotations

from enum import StrEnum


class ScenarioName(StrEnum):
    """What the guest is going through."""

    IDLE = "idle"
    """The guest runs where it was started; there is no migration."""
    POSTCOPY = "postcopy"
    """Postcopy over a healthy link: pages that the guest asks for arrive at once."""
    BLACKHOLE = "blackhole"
    """Postcopy, then every packet is dropped; both sides still believe in the connection."""
    BLACKHOLE_RETURN = "blackhole-return"
    """The same, but only of what the destination sends: the source does not hear its requests."""
    LINK_DOWN = "link-down"
    """Postcopy, then the link loses its carrier; both sides still believe in the connection."""
    PAUSED = "paused"
    """Postcopy, then the connection is reset; both sides have noticed and are paused."""
    PAUSED_TIMEOUT = "paused-timeout"
    """Postcopy, then silence until TCP has given up on both sides, and they are paused."""
    PAUSED_COMMAND = "paused-command"
    """Postcopy, then `migrate-pause`; both sides are paused, the link is healthy."""
    DEGRADED = "degraded"
    """Postcopy over a link that is slow, late and lossy: pages arrive, each after a while."""
    FLAPPING = "flapping"
    """Postcopy over a link with short outages, again and again: the migration goes on."""
    FROZEN_SOURCE = "frozen-source"
    """The source's QEMU is frozen (SIGSTOP) at the switch, before the guest runs again."""
    DEAD_SOURCE = "dead-source"
    """The source's QEMU is killed (SIGKILL) at the switch, before the guest runs again."""
    CUT_AT_SWITCH = "cut-at-switch"
    """Every packet is dropped from the switch on, before the guest runs again."""

    @classmethod
    def _missing_(cls, value: object) -> ScenarioName | None:
        """`paused-reset` is the full name of plain `paused`."""
        return cls.PAUSED if value == "paused-reset" else None


class RequestName(StrEnum):
    """What the operator asks for."""

    STOP = "stop"
    """QMP `stop`, until its reply."""
    CTRL_C = "ctrl-c"
    """0x03 typed at QEMU's terminal, until QEMU is reaped."""
    GDB_ATTACH = "gdb-attach"
    """A gdb that waits for its command attaches to QEMU, until it has stopped every thread."""
    PTRACE_INTERRUPT = "ptrace-interrupt"
    """PTRACE_SEIZE and PTRACE_INTERRUPT of each vCPU thread, until all have stopped."""
    GDBSTUB_BREAK = "gdbstub-break"
    """0x03 to QEMU's gdbstub, until its stop reply."""
    SIGTERM = "sigterm"
    """SIGTERM to QEMU, until it is reaped."""
    QUIT = "quit"
    """QMP `quit`, until QEMU is reaped."""
    SIGUSR1 = "sigusr1"
    """QEMU's own kick, the signal alone, to each vCPU thread, until all have taken it."""
    REGISTERS = "registers"
    """HMP `info registers`, which has to run on the vCPUs, until its reply."""
    SIGKILL = "sigkill"
    """SIGKILL to QEMU, until it is reaped."""
    QUERY_STATUS = "query-status"
    """QMP `query-status`, until its reply: the monitor's own round trip."""


class ManagerName(StrEnum):
    """Who runs the guest."""

    QEMU = "qemu"
    """QEMU alone, told by QMP what to do."""


class Outcome(StrEnum):
    """How a trial ended."""

    RETURNED = "returned"
    """The answer arrived before the deadline. It has a latency."""
    REFUSED = "refused"
    """The answer arrived before the deadline and was an error. It has a latency."""
    ASLEEP = "asleep"
    """No answer; a thread of QEMU that had to act is in D, or sleeps in a fault or a lock that a
    signal does not end."""
    SPINNING = "spinning"
    """No answer; a thread of QEMU burns CPU time while a signal waits for it."""
    UNANSWERED = "unanswered"
    """No answer, and no thread of QEMU was seen to sleep or spin so."""
    DIED = "died"
    """QEMU ended, though it was not asked to, or not in the way that it was asked to."""
    LOST = "lost"
    """No request was made, or the lab, the host or the request's own tool failed. Counted, never
    scored."""


HUNG = frozenset({Outcome.ASLEEP, Outcome.SPINNING, Outcome.UNANSWERED})
"""No answer before the deadline, whichever thread is to blame. Censored at the deadline."""

FAILED = HUNG | {Outcome.DIED}
"""The operator did not get what was asked for, and never will."""

ANSWERED = frozenset({Outcome.RETURNED, Outcome.REFUSED})
"""Outcomes that have a latency."""

SCORED = ANSWERED | FAILED
"""Outcomes of a request that was made: they say something about the host."""


class Entry(StrEnum):
    """How a thread got into the kernel's wait."""

    GUP = "gup"
    """In get_user_pages(), as KVM calls it to map a guest page."""
    UACCESS = "uaccess"
    """In a page fault that the kernel itself took while it copied from or to guest memory."""
    GPC = "gpc"
    """In get_user_pages() for a page that KVM keeps mapped (gfn_to_pfn_cache): kvmclock's."""
    ASYNC_PF = "async-pf"
    """Halted by KVM: it waits for an interrupt, or for a worker that fetches the page."""
    USER = "user"
    """In a page fault that QEMU took in user mode."""
    SYSCALL = "syscall"
    """In another system call."""
    NONE = "none"
    """It does not wait in the kernel."""


class WaitsFor(StrEnum):
    """What a thread waits for in the kernel, as far as its stack shows that."""

    USERFAULT = "userfault"
    """A page that userfaultfd's handler has to deliver."""
    FUSE = "fuse"
    """A FUSE server."""
    NFS = "nfs"
    """An NFS server."""
    SWAP = "swap"
    """A page that is swapped out."""
    PAGE_CACHE = "page-cache"
    """A page of a file that is being read or written."""
    LOCK = "lock"
    """A lock that another thread holds, or the readers of an SRCU."""
    NOTHING = "nothing"
    """None of these."""


class Role(StrEnum):
    """What a thread of QEMU is for."""

    VCPU = "vcpu"
    MAIN = "main"
    IOTHREAD = "iothread"
    OTHER = "other"


class Backing(StrEnum):
    """What a guest's memory is, on the host."""

    ANONYMOUS = "anonymous"
    MEMFD = "memfd"
    """Shared memory, as for vhost-user."""
    HUGETLB = "hugetlb"
    """Shared memory of huge pages of 2 MiB."""
