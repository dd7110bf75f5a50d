# SPDX-License-Identifier: BSD-3-Clause
"""The words in records. Tables show them in the order in which they are defined here."""

from __future__ import annotations

from enum import StrEnum


class Family(StrEnum):
    """The scenarios that are staged by the same means."""

    NONE = "none"
    """Nothing is done to the guest."""
    MIGRATION = "migration"
    """A postcopy migration fails, or is slow."""
    STORAGE = "storage"
    """The storage behind the guest's memory does not answer."""


class ScenarioName(StrEnum):
    """The scenario of a trial: what happens to the guest."""

    IDLE = "idle"
    """The guest runs where it was started; there is no migration."""
    POSTCOPY = "postcopy"
    """Postcopy over a healthy link: requested pages arrive at once."""
    BLACKHOLE = "blackhole"
    """Postcopy, then every packet is dropped; neither side notices."""
    BLACKHOLE_RETURN = "blackhole-return"
    """Postcopy, then every packet from the destination is dropped: the source gets no requests."""
    LINK_DOWN = "link-down"
    """Postcopy, then the link loses its carrier; neither side notices."""
    PAUSED = "paused"
    """Postcopy, then the connection is reset; both sides have noticed and are paused."""
    PAUSED_TIMEOUT = "paused-timeout"
    """Postcopy, then every packet is dropped until TCP gives up; both sides are paused."""
    PAUSED_COMMAND = "paused-command"
    """Postcopy, then `migrate-pause`; both sides are paused, the link is healthy."""
    DEGRADED = "degraded"
    """Postcopy over a link with low bandwidth, delay and loss: each page arrives after a while."""
    FLAPPING = "flapping"
    """Postcopy over a link with repeated short outages: the migration continues."""
    FROZEN_SOURCE = "frozen-source"
    """The source's QEMU is frozen (SIGSTOP) at the switch, before the guest runs again."""
    DEAD_SOURCE = "dead-source"
    """The source's QEMU is killed (SIGKILL) at the switch, before the guest runs again."""
    CUT_AT_SWITCH = "cut-at-switch"
    """Every packet is dropped from the switch on, before the guest runs again."""
    FUSE_HOLD = "fuse-hold"
    """The guest's memory is a file on FUSE, whose server leaves reads unanswered."""
    FUSE_STOPPED = "fuse-stopped"
    """The same, but the server is stopped (SIGSTOP) and answers nothing."""
    FUSE_SYNC = "fuse-sync"
    """As `fuse-hold` without read-ahead, so that a vCPU's page fault reads the page itself."""
    NFS_HARD = "nfs-hard"
    """The guest's memory is a file on NFS, mounted `hard`; then every packet is dropped."""
    NFS_SOFT = "nfs-soft"
    """The same, mounted `soft` and with the connection reset: reading fails after four seconds."""
    NFS_WRITEBACK = "nfs-writeback"
    """As `nfs-hard`, but the guest's memory is cached, and it waits to write to a page that is
    being written to the server."""
    SWAP_ANONYMOUS = "swap-anonymous"
    """The guest's memory is anonymous and swapped out; then the swap device answers nothing."""
    SWAP_MEMFD = "swap-memfd"
    """The same with memory that is a memfd, such as vhost-user needs."""
    MEMORY_HIGH = "memory-high"
    """The guest needs more memory than memory.high of its cgroup: QEMU is slowed down."""

    @property
    def family(self) -> Family:
        """The family of the scenario."""
        return _OTHER_FAMILIES.get(self, Family.MIGRATION)

    @classmethod
    def _missing_(cls, value: object) -> ScenarioName | None:
        """Accept `paused-reset`, the full name of `paused`."""
        return cls.PAUSED if value == "paused-reset" else None


_OTHER_FAMILIES = {
    ScenarioName.IDLE: Family.NONE,
    ScenarioName.FUSE_HOLD: Family.STORAGE,
    ScenarioName.FUSE_STOPPED: Family.STORAGE,
    ScenarioName.FUSE_SYNC: Family.STORAGE,
    ScenarioName.NFS_HARD: Family.STORAGE,
    ScenarioName.NFS_SOFT: Family.STORAGE,
    ScenarioName.NFS_WRITEBACK: Family.STORAGE,
    ScenarioName.SWAP_ANONYMOUS: Family.STORAGE,
    ScenarioName.SWAP_MEMFD: Family.STORAGE,
    ScenarioName.MEMORY_HIGH: Family.STORAGE,
}
"""The scenarios without a migration, and their families."""

RUNS = frozenset({ScenarioName.IDLE, ScenarioName.POSTCOPY})
"""The scenarios whose guests run. Where their vCPUs are at one moment is chance."""


class RequestName(StrEnum):
    """What the operator requests."""

    STOP = "stop"
    """QMP `stop`; answered by its reply."""
    CTRL_C = "ctrl-c"
    """Ctrl-C (0x03) typed at QEMU's terminal; answered when QEMU is reaped."""
    GDB_ATTACH = "gdb-attach"
    """A running gdb attaches to QEMU; answered when it has stopped every thread."""
    PTRACE_INTERRUPT = "ptrace-interrupt"
    """PTRACE_SEIZE and PTRACE_INTERRUPT of each vCPU thread; answered when all have stopped."""
    GDBSTUB_BREAK = "gdbstub-break"
    """0x03 to QEMU's gdbstub; answered by its stop reply."""
    SIGTERM = "sigterm"
    """SIGTERM to QEMU; answered when QEMU is reaped."""
    QUIT = "quit"
    """QMP `quit`; answered when QEMU is reaped."""
    SIGUSR1 = "sigusr1"
    """SIGUSR1, with which QEMU kicks vCPUs, to each vCPU thread; answered when all have taken
    it."""
    REGISTERS = "registers"
    """HMP `info registers`, which has to run on the vCPUs; answered by its reply."""
    SIGKILL = "sigkill"
    """SIGKILL to QEMU; answered when QEMU is reaped."""
    QUERY_STATUS = "query-status"
    """QMP `query-status`, the monitor's own round trip; answered by its reply."""
    PROC_MAPS = "proc-maps"
    """/proc/PID/maps of QEMU; answered when a running `cat` has read all of it."""
    PS = "ps"
    """`ps` with QEMU's command line; answered when all of its output has been read."""
    CGROUP_FREEZE = "cgroup-freeze"
    """The freezer of a cgroup that QEMU is in; answered when the kernel reports all of QEMU
    frozen."""
    CORE_DUMP = "core-dump"
    """SIGQUIT to QEMU; answered when QEMU has dumped core and is reaped."""
    PLUG_MEMORY = "plug-memory"
    """QMP `device_add` of a memory module, which gives KVM another memory slot; answered by its
    reply."""
    DIRTY_RATE = "dirty-rate"
    """QMP `calc-dirty-rate` for one second, which makes KVM log the guest's writes; answered when
    QEMU has the rate."""
    VIRT_SUSPEND = "virt-suspend"
    """libvirt's virDomainSuspend, until it returns."""
    VIRT_DESTROY = "virt-destroy"
    """libvirt's virDomainDestroy, until it returns; QEMU's death is recorded as well."""
    VIRT_DESTROY_GRACEFUL = "virt-destroy-graceful"
    """The same with VIR_DOMAIN_DESTROY_GRACEFUL, with which libvirt sends no SIGKILL."""
    VIRT_ABORT = "virt-abort"
    """libvirt's virDomainAbortJobFlags with VIR_DOMAIN_ABORT_JOB_POSTCOPY, at the source."""
    VIRT_REBOOT_DAEMON = "virt-reboot-daemon"
    """SIGTERM to libvirtd and a new one in its place, until it reports the guest's state."""
    VIRT_DOMSTATE = "virt-domstate"
    """libvirt's virDomainGetState, until it returns: libvirt's own round trip."""


class ManagerName(StrEnum):
    """What starts guests and migrates them."""

    QEMU = "qemu"
    """QEMU alone, which kickbench controls through QMP."""
    LIBVIRT = "libvirt"
    """libvirt runs QEMU, one libvirtd on either side of a migration."""


class Outcome(StrEnum):
    """The outcome of a trial."""

    RETURNED = "returned"
    """The answer arrived before the deadline. It has a latency."""
    REFUSED = "refused"
    """The answer arrived before the deadline and was an error. It has a latency."""
    ASLEEP = "asleep"
    """No answer arrived. A thread of QEMU that had to act is in state D, or sleeps in a page fault
    or on a lock that a signal does not end."""
    SPINNING = "spinning"
    """No answer arrived. A thread of QEMU uses CPU time while a signal is pending for it."""
    UNANSWERED = "unanswered"
    """No answer arrived, and no thread of QEMU was seen asleep or spinning in these ways."""
    DIED = "died"
    """QEMU ended without a request to end, or in another way than requested."""
    LOST = "lost"
    """No request was made, or the lab, the host or the request's own tool failed. A lost trial is
    counted and never scored."""


HUNG = frozenset({Outcome.ASLEEP, Outcome.SPINNING, Outcome.UNANSWERED})
"""Outcomes without an answer before the deadline, whichever thread is to blame. The latency is
censored at the deadline."""

FAILED = HUNG | {Outcome.DIED}
"""Outcomes in which the operator does not get what was requested."""

ANSWERED = frozenset({Outcome.RETURNED, Outcome.REFUSED})
"""Outcomes that have a latency."""

SCORED = ANSWERED | FAILED
"""Outcomes of a request that was made. They are results about the host."""


class Entry(StrEnum):
    """How a thread got into the kernel's wait."""

    GUP = "gup"
    """In get_user_pages(), which KVM calls to map a guest page."""
    UACCESS = "uaccess"
    """In a page fault of the kernel itself, while it copied from or to guest memory."""
    GPC = "gpc"
    """In get_user_pages() for a page that KVM keeps mapped (gfn_to_pfn_cache), such as
    kvmclock's."""
    ASYNC_PF = "async-pf"
    """Halted by KVM while a kernel worker fetches the page (async_pf_execute())."""
    HALTED = "halted"
    """Halted by KVM, because the guest has executed HLT: it waits for an interrupt."""
    USER = "user"
    """In a page fault of QEMU in user mode."""
    SYSCALL = "syscall"
    """In another system call."""
    NONE = "none"
    """The thread does not wait in the kernel."""


class WaitsFor(StrEnum):
    """What a thread waits for in the kernel, if its stack shows that."""

    USERFAULT = "userfault"
    """A page that the handler of a userfaultfd has to deliver."""
    FUSE = "fuse"
    """A FUSE server."""
    NFS = "nfs"
    """An NFS server."""
    SWAP = "swap"
    """A page that is swapped out."""
    PAGE_CACHE = "page-cache"
    """A page of a file that is being read or written."""
    MEMORY_LIMIT = "memory-limit"
    """The end of a delay, because its cgroup has more memory than memory.high."""
    LOCK = "lock"
    """A lock that another thread holds, or the readers of an SRCU."""
    NOTHING = "nothing"
    """None of the above."""


class Role(StrEnum):
    """The role of a thread of QEMU."""

    VCPU = "vcpu"
    MAIN = "main"
    IOTHREAD = "iothread"
    OTHER = "other"


class Backing(StrEnum):
    """The kind of host memory that backs a guest's memory."""

    ANONYMOUS = "anonymous"
    MEMFD = "memfd"
    """Shared memory, such as vhost-user needs."""
    HUGETLB = "hugetlb"
    """Shared memory of huge pages of 2 MiB."""
