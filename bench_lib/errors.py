# SPDX-License-Identifier: BSD-3-Clause
"""The error tree. Each class is one kind of failure, with its own exit status.

The module is long because the tree is in one place: exit statuses have to be unique, and a test
compares them with docs/reference/exit-statuses.md.

::

    KickbenchError
    ├── UsageError                  the user asked for something impossible
    │   ├── UnknownScenario
    │   ├── UnknownRequest
    │   ├── BadDeadline
    │   ├── BadShape
    │   ├── UnknownCase
    │   ├── NotRecoverable
    │   ├── NothingSelected
    │   ├── NotOffered
    │   ├── OtherHistory
    │   └── HistoryNotBegun
    ├── HostError                   this host cannot run trials
    │   ├── KvmUnavailable
    │   ├── NotRoot
    │   ├── ProgramMissing
    │   ├── QemuTooOld
    │   ├── NamespacesUnavailable
    │   ├── OutageUnavailable
    │   ├── HostBusy
    │   ├── LeftoversRemain
    │   ├── PtraceForbidden
    │   ├── NotStarted
    │   ├── HugepagesMissing
    │   ├── MemoryMissing
    │   ├── UserfaultfdForbidden
    │   ├── EvidenceHidden
    │   ├── LibvirtMissing
    │   ├── GuestNotBooted
    │   ├── FuseUnavailable
    │   ├── OnlyInLabs
    │   ├── FreezerMissing
    │   ├── CoreDumpsElsewhere
    │   └── UnknownArchitecture
    ├── StoreError                  records cannot be written or read
    │   └── RecordNotWritten
    ├── LedgerError                 the list of kernels cannot be used
    ├── KernelError                 a kernel cannot be used
    │   ├── WrongKernel
    │   ├── UnknownKernel
    │   ├── FetchFailed
    │   ├── KernelUnusable
    │   ├── ArchiveUnsafe
    │   ├── KernelAmbiguous
    │   └── GuestKernelMissing
    ├── CannotCompare               the records of two kernels cannot be compared
    ├── LabError                    the lab cannot be used
    │   ├── LabUnavailable
    │   └── LabLost
    ├── FleetError                  the fleet cannot be used
    │   ├── FleetMissing
    │   ├── FleetUnreachable
    │   ├── CertificateUnusable
    │   ├── FleetRefused
    │   ├── UnknownHost
    │   ├── UnknownCampaign
    │   └── CampaignIncomplete
    ├── ImageError                  a guest image differs from its manifest
    ├── InternalError               a defect of kickbench itself
    ├── ExplainError                a running guest cannot be explained
    │   ├── ProcessGone
    │   ├── NotAVmm
    │   ├── ProcessHidden
    │   ├── ProcessEnded
    │   ├── NoSuchGuest
    │   ├── GuestNameAmbiguous
    │   └── ProcessBlocked
    ├── Interrupted                 a signal ended the run
    ├── ProbeFailed                 a case of the probe measured nothing
    └── TrialLost                   a trial gave no measurement; it is counted, never scored
        ├── LibvirtFailed
        ├── StorageFailed
        ├── DeadlinePassed
        ├── ToolFailed
        ├── GuestDied
        ├── MonitorFailed
        ├── MonitorRefused
        ├── MigrationFailed
        │   └── MigratedWhole
        ├── OutageNotProven
        ├── NotStuck
        ├── DebuggerFailed
        ├── LookFailed
        ├── FreezerLeft
        ├── RecoveryFailed
        └── MemoryDamaged

Every message is a full sentence for users who have not read the code. It states what failed, why,
and what to do. ``TrialLost`` and its subclasses end a trial, not a run.
"""

from __future__ import annotations

import signal


class KickbenchError(Exception):
    """An error that kickbench reports in its own sentence.

    :ivar exit_status: the exit status of the command that fails with this error.
    """

    exit_status = 1


class UsageError(KickbenchError):
    """The user asked for something impossible."""

    exit_status = 2


class UnknownScenario(UsageError):
    """There is no scenario of this name."""

    exit_status = 10


class UnknownRequest(UsageError):
    """There is no request of this name."""

    exit_status = 11


class BadDeadline(UsageError):
    """A deadline is not a positive number of seconds."""

    exit_status = 12


class BadShape(UsageError):
    """QEMU or the guest image does not support this shape of guest."""

    exit_status = 13


class UnknownCase(UsageError):
    """The probe has no case of this name."""

    exit_status = 15


class NotRecoverable(UsageError):
    """The scenario leaves no guest or no migration that could be recovered."""

    exit_status = 14


class NotOffered(UsageError):
    """A request that cannot be made to this guest, or not in this order."""

    exit_status = 19


class OtherHistory(UsageError):
    """asv uses another history than the one that KICKBENCH_HISTORY names."""

    exit_status = 16


class HistoryNotBegun(UsageError):
    """A folder cannot be made a history."""

    exit_status = 17


class NothingSelected(UsageError):
    """No record matches the options of a report."""

    exit_status = 18


class HostError(KickbenchError):
    """This host cannot run trials."""

    exit_status = 20


class KvmUnavailable(HostError):
    """/dev/kvm is missing, may not be opened by this user, or does not work."""

    exit_status = 21


class NotRoot(HostError):
    """This user is not root. Namespaces, qdiscs and kernel stacks of other threads need root."""

    exit_status = 22


class ProgramMissing(HostError):
    """A program that trials need is not installed."""

    exit_status = 23


class QemuTooOld(HostError):
    """QEMU is too old: it lacks a command or a capability that trials need."""

    exit_status = 24


class NamespacesUnavailable(HostError):
    """Network namespaces or veth pairs cannot be created on this host."""

    exit_status = 25


class OutageUnavailable(HostError):
    """tc cannot cut a link on this host by any mechanism that kickbench knows."""

    exit_status = 26


class HostBusy(HostError):
    """Another run is measuring on this host."""

    exit_status = 27


class LeftoversRemain(HostError):
    """Something that a killed run has left cannot be ended or removed.

    :ivar ended: one line for each leftover that was ended or removed.
    """

    exit_status = 28

    def __init__(self, message: str, ended: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.ended = ended


class PtraceForbidden(HostError):
    """Debuggers may not attach to processes on this host."""

    exit_status = 29


class NotStarted(HostError):
    """A program is installed, but cannot be started in the way that trials need."""

    exit_status = 38


class HugepagesMissing(HostError):
    """This host has too few free huge pages for the guests."""

    exit_status = 32


class MemoryMissing(HostError):
    """This host has too little free memory for the guests."""

    exit_status = 36


class UserfaultfdForbidden(HostError):
    """The kernel forbids userfaultfd(2), has none, or lacks a feature of it."""

    exit_status = 33


class EvidenceHidden(HostError):
    """The kernel does not show the stacks or times of threads, which evidence consists of."""

    exit_status = 34


class LibvirtMissing(HostError):
    """libvirtd or libvirt-python is not installed, or does not start."""

    exit_status = 39


class GuestNotBooted(HostError):
    """A Linux guest did not boot on this host, or its state could not be saved."""

    exit_status = 37


class FuseUnavailable(HostError):
    """No FUSE file system can be served on this host."""

    exit_status = 51


class OnlyInLabs(HostError):
    """A scenario is staged only in labs, or the lab's kernel lacks what stages it."""

    exit_status = 58


class FreezerMissing(HostError):
    """Processes cannot be frozen with a cgroup on this host."""

    exit_status = 83


class CoreDumpsElsewhere(HostError):
    """The kernel writes core dumps to a place where kickbench would leave them behind."""

    exit_status = 84


class UnknownArchitecture(HostError):
    """kickbench does not know this machine's CPU architecture, or has no guests for it."""

    exit_status = 35


class StoreError(KickbenchError):
    """Records cannot be written or read."""

    exit_status = 30


class RecordNotWritten(StoreError):
    """A record could not be appended; the file is unchanged."""

    exit_status = 31


class LedgerError(KickbenchError):
    """The ledger, the list of known kernels, cannot be read or written."""

    exit_status = 40


class KernelError(KickbenchError):
    """A kernel cannot be used."""

    exit_status = 42


class WrongKernel(KernelError):
    """The user asked for a kernel that is not the booted one."""

    exit_status = 41


class UnknownKernel(KernelError):
    """No kernel has this name."""

    exit_status = 43


class FetchFailed(KernelError):
    """A kernel could not be downloaded or unpacked; the cache is unchanged."""

    exit_status = 44


class KernelUnusable(KernelError):
    """The lab cannot boot this kernel, or cannot run trials under it."""

    exit_status = 45


class ArchiveUnsafe(KernelError):
    """An archive contains a name that leads out of the folder that it is unpacked to."""

    exit_status = 46


class KernelAmbiguous(KernelError):
    """Several builds have this name, but one is needed."""

    exit_status = 47


class GuestKernelMissing(KernelError):
    """The kernel of Linux guests is not in the cache."""

    exit_status = 48


class CannotCompare(KickbenchError):
    """The records of two kernels cannot be compared; the sentence gives the reason."""

    exit_status = 3


class LabError(KickbenchError):
    """The lab cannot be used."""

    exit_status = 60


class LabUnavailable(LabError):
    """This host cannot boot a lab."""

    exit_status = 61


class LabLost(LabError):
    """A lab died, hung or stopped answering, or its kernel killed kickbench.

    This is never the result of a trial that ran in the lab.

    :ivar console: the last lines of the lab's console.
    """

    exit_status = 62

    def __init__(self, message: str, console: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.console = console


class FleetError(KickbenchError):
    """The fleet cannot be used."""

    exit_status = 63


class FleetMissing(FleetError):
    """kickbench was installed without what a fleet needs."""

    exit_status = 64


class FleetUnreachable(FleetError):
    """The coordinator cannot be reached, or the connection to it broke."""

    exit_status = 65


class CertificateUnusable(FleetError):
    """A certificate or a key is missing, has expired, or does not belong to the fleet."""

    exit_status = 66


class FleetRefused(FleetError):
    """The coordinator refused what was asked of it."""

    exit_status = 67


class UnknownHost(FleetError):
    """The fleet has no host of this name."""

    exit_status = 68


class UnknownCampaign(FleetError):
    """The coordinator has no campaign of this id."""

    exit_status = 69


class CampaignIncomplete(FleetError):
    """A campaign ended without some of its boots."""

    exit_status = 78


class ImageError(KickbenchError):
    """A guest image is missing, or differs from its manifest."""

    exit_status = 50


class InternalError(KickbenchError):
    """A defect of kickbench itself, which does not show anything about a kernel."""

    exit_status = 90

    @classmethod
    def of(cls, error: Exception) -> InternalError:
        """Wrap an unexpected exception."""
        return cls(
            f"This is a defect of kickbench, please report it: {type(error).__name__}: {error}. "
            "Repeat the command with `kickbench -v` to see where it happened."
        )


class ExplainError(KickbenchError):
    """A running guest cannot be explained."""

    exit_status = 70


class ProcessGone(ExplainError):
    """There is no such process."""

    exit_status = 71


class NotAVmm(ExplainError):
    """The process runs no vCPU."""

    exit_status = 72


class ProcessHidden(ExplainError):
    """The process belongs to another user, and this user may not read it in /proc."""

    exit_status = 73


class ProcessEnded(ExplainError):
    """The process ended while kickbench examined it."""

    exit_status = 74


class NoSuchGuest(ExplainError):
    """No running guest has this name."""

    exit_status = 75


class GuestNameAmbiguous(ExplainError):
    """Several running guests have this name."""

    exit_status = 76


class ProcessBlocked(ExplainError):
    """The kernel keeps every reader of the process in /proc waiting."""

    exit_status = 77


class Interrupted(KickbenchError):
    """A signal ended the run, after everything that the run had started was ended.

    :ivar exit_status: 128 plus the number of the signal, as in a shell.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"Interrupted by {number.name}; the trials before it are kept.")
        self.exit_status = 128 + number


class ProbeFailed(KickbenchError):
    """A case of the probe measured nothing."""

    exit_status = 6


class TrialLost(KickbenchError):
    """A trial ended without a measurement."""

    exit_status = 4


class LibvirtFailed(TrialLost):
    """libvirtd ended, or refused something that a scenario needs."""


class StorageFailed(TrialLost):
    """What a guest's memory comes from failed, instead of not answering."""


class DeadlinePassed(TrialLost):
    """An event did not happen before its deadline."""


class ToolFailed(TrialLost):
    """A command such as ip or tc exited with an error."""


class GuestDied(TrialLost):
    """A QEMU process ended unexpectedly."""


class MonitorFailed(TrialLost):
    """A QMP monitor or a gdbstub failed: its connection broke, or it sent something invalid."""


class MonitorRefused(TrialLost):
    """A QMP monitor answered with an error that leaves it usable."""


class MigrationFailed(TrialLost):
    """A migration entered a state that is not part of the scenario."""


class MigratedWhole(MigrationFailed):
    """A migration moved all memory before the scenario could make a page missing."""


class OutageNotProven(TrialLost):
    """Traffic still passed after the link was cut, or did not pass before."""


class NotStuck(TrialLost):
    """A vCPU that should be stuck was not seen stuck."""


class DebuggerFailed(TrialLost):
    """A debugger ended, or failed to execute a command."""


class LookFailed(TrialLost):
    """A program that looks at QEMU, such as ps, failed by itself."""


class FreezerLeft(TrialLost):
    """QEMU was moved out of the cgroup that should freeze it."""


class RecoveryFailed(TrialLost):
    """A migration could not be recovered in two attempts."""


class MemoryDamaged(TrialLost):
    """The guest found a page of its memory changed."""

    exit_status = 5
