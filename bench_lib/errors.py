# SPDX-License-Identifier: BSD-3-Clause
"""The error tree. Each class is one thing that can go wrong, with an exit status of its own.

::

    KickbenchError
    ├── UsageError                  what was asked for cannot be
    │   ├── UnknownScenario
    │   ├── UnknownRequest
    │   ├── BadDeadline
    │   ├── BadShape
    │   ├── UnknownCase
    │   ├── NotRecoverable
    │   ├── NothingSelected
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
    │   ├── UserfaultfdForbidden
    │   ├── EvidenceHidden
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
    │   └── KernelAmbiguous
    ├── CannotCompare               two kernels' records say nothing of each other
    ├── LabError                    the lab cannot be used
    │   ├── LabUnavailable
    │   └── LabLost
    ├── ImageError                  a guest image is not what the manifest says
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
    └── TrialLost                   no measurement was made; counted, never scored
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
        ├── RecoveryFailed
        └── MemoryDamaged

The message of each is a whole sentence that says what to do, for a person who has not read
the code. ``TrialLost`` and what is under it ends a trial, not a run.
"""

from __future__ import annotations

import signal


class KickbenchError(Exception):
    """Anything kickbench reports itself. :ivar exit_status: what the command exits with."""

    exit_status = 1


class UsageError(KickbenchError):
    """What was asked for cannot be."""

    exit_status = 2


class UnknownScenario(UsageError):
    """No such scenario."""

    exit_status = 10


class UnknownRequest(UsageError):
    """No such request."""

    exit_status = 11


class BadDeadline(UsageError):
    """A deadline that is not a positive number of seconds."""

    exit_status = 12


class BadShape(UsageError):
    """A guest that QEMU or the image cannot be."""

    exit_status = 13


class UnknownCase(UsageError):
    """No case of the probe has that name."""

    exit_status = 15


class NotRecoverable(UsageError):
    """A recovery was asked for where there is no guest or no migration left to recover."""

    exit_status = 14


class OtherHistory(UsageError):
    """asv works on another history than KICKBENCH_HISTORY names."""

    exit_status = 16


class HistoryNotBegun(UsageError):
    """A folder cannot become a history."""

    exit_status = 17


class NothingSelected(UsageError):
    """No record matches the options of a report."""

    exit_status = 18


class HostError(KickbenchError):
    """This host cannot run trials."""

    exit_status = 20


class KvmUnavailable(HostError):
    """/dev/kvm is missing, closed to this user, or does not work."""

    exit_status = 21


class NotRoot(HostError):
    """Namespaces, qdiscs and other threads' kernel stacks need root."""

    exit_status = 22


class ProgramMissing(HostError):
    """A program that trials need is not installed."""

    exit_status = 23


class QemuTooOld(HostError):
    """QEMU lacks a command or capability that trials need."""

    exit_status = 24


class NamespacesUnavailable(HostError):
    """Network namespaces or veth pairs cannot be made here."""

    exit_status = 25


class OutageUnavailable(HostError):
    """No mechanism that tc offers here cuts a link."""

    exit_status = 26


class HostBusy(HostError):
    """Another run is measuring on this host."""

    exit_status = 27


class LeftoversRemain(HostError):
    """Something that a killed run has left cannot be ended.

    :ivar ended: what could be, a line each.
    """

    exit_status = 28

    def __init__(self, message: str, ended: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.ended = ended


class PtraceForbidden(HostError):
    """Debuggers may not attach here."""

    exit_status = 29


class NotStarted(HostError):
    """A program is there, but cannot be started as trials need it."""

    exit_status = 38


class HugepagesMissing(HostError):
    """There are not enough huge pages for the guests asked for."""

    exit_status = 32


class UserfaultfdForbidden(HostError):
    """userfaultfd may not be used, or lacks something."""

    exit_status = 33


class EvidenceHidden(HostError):
    """This kernel does not show what evidence is made of."""

    exit_status = 34


class UnknownArchitecture(HostError):
    """kickbench does not know this machine's CPU architecture, or has no guests for it."""

    exit_status = 35


class StoreError(KickbenchError):
    """Records cannot be written or read."""

    exit_status = 30


class RecordNotWritten(StoreError):
    """A record could not be appended; the file is as it was before."""

    exit_status = 31


class LedgerError(KickbenchError):
    """The list of known kernels cannot be read or written."""

    exit_status = 40


class KernelError(KickbenchError):
    """A kernel cannot be used."""

    exit_status = 42


class WrongKernel(KernelError):
    """A kernel was asked for that is not the booted one."""

    exit_status = 41


class UnknownKernel(KernelError):
    """No kernel has that name."""

    exit_status = 43


class FetchFailed(KernelError):
    """A kernel could not be downloaded or unpacked; the cache is as it was."""

    exit_status = 44


class KernelUnusable(KernelError):
    """A kernel image that the lab cannot boot, or cannot run trials under."""

    exit_status = 45


class ArchiveUnsafe(KernelError):
    """An archive has a name in it that leads out of the folder that it is unpacked to."""

    exit_status = 46


class KernelAmbiguous(KernelError):
    """Several builds have that name where one is meant."""

    exit_status = 47


class CannotCompare(KickbenchError):
    """Records of two kernels say nothing of each other; the sentence says why."""

    exit_status = 3


class LabError(KickbenchError):
    """The lab cannot be used."""

    exit_status = 60


class LabUnavailable(LabError):
    """No lab can be booted on this host."""

    exit_status = 61


class LabLost(LabError):
    """A lab died, hung or stopped answering, or killed kickbench; never a result of what ran there.

    :ivar console: the last lines of its console.
    """

    exit_status = 62

    def __init__(self, message: str, console: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.console = console


class ImageError(KickbenchError):
    """A guest image is missing or is not what the manifest says."""

    exit_status = 50


class InternalError(KickbenchError):
    """A defect of kickbench itself; no statement about any kernel."""

    exit_status = 90

    @classmethod
    def of(cls, error: Exception) -> InternalError:
        """The same for an error that nothing was prepared for."""
        return cls(
            f"This is a defect of kickbench, please report it: {type(error).__name__}: {error}. "
            "`kickbench -v` and the same command again show where it happened."
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
    """The process is another user's, and may not be looked into."""

    exit_status = 73


class ProcessEnded(ExplainError):
    """The process ended while it was looked at."""

    exit_status = 74


class NoSuchGuest(ExplainError):
    """No running guest has that name."""

    exit_status = 75


class GuestNameAmbiguous(ExplainError):
    """Several running guests have that name."""

    exit_status = 76


class ProcessBlocked(ExplainError):
    """The kernel keeps whoever looks at the process waiting."""

    exit_status = 77


class Interrupted(KickbenchError):
    """A signal ended the run, in order.

    :ivar exit_status: 128 and the signal's number, as a shell gives it.
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


class DeadlinePassed(TrialLost):
    """Something that was waited for did not happen in time."""


class ToolFailed(TrialLost):
    """A command such as ip or tc exited with an error."""


class GuestDied(TrialLost):
    """A QEMU process ended that should be running."""


class MonitorFailed(TrialLost):
    """A QMP monitor broke, or answered with an error."""


class MonitorRefused(TrialLost):
    """A QMP monitor answered with an error that leaves it usable."""


class MigrationFailed(TrialLost):
    """A migration went into a state that the scenario does not contain."""


class MigratedWhole(MigrationFailed):
    """A guest arrived with all of its memory before anything could be missing."""


class OutageNotProven(TrialLost):
    """Traffic still passed after the link was cut, or did not pass before."""


class NotStuck(TrialLost):
    """A vCPU that should be stuck was not seen stuck."""


class DebuggerFailed(TrialLost):
    """A debugger ended, or could not do what it was told."""


class RecoveryFailed(TrialLost):
    """A migration could not be recovered, in two tries."""


class MemoryDamaged(TrialLost):
    """The guest found a page of its memory changed."""

    exit_status = 5
