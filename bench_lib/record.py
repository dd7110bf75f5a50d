"""A trial on paper: its typed parts, and the file of JSON Lines that they are kept in.

The keys of a record and their meaning are fixed by `SCHEMA`; keys may be added under the same
number, and a change of one raises it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

import msgspec

from bench_lib.errors import RecordNotWritten, StoreError

SCHEMA = 1


class Scenario(StrEnum):
    """What the guest is going through."""

    IDLE = "idle"
    """It runs where it was started; no migration."""
    POSTCOPY = "postcopy"
    """Postcopy over a healthy link: pages that are asked for come at once."""
    BLACKHOLE = "blackhole"
    """Postcopy, then every packet is dropped; both sides still believe in the connection."""
    BLACKHOLE_RETURN = "blackhole-return"
    """The same, but only of what the destination sends: the source does not hear its requests."""
    LINK_DOWN = "link-down"
    """Postcopy, then the link loses its carrier; both sides still believe in the connection."""
    PAUSED = "paused"
    """Postcopy, then the connection is reset; both sides have seen it and are paused."""
    PAUSED_TIMEOUT = "paused-timeout"
    """Postcopy, then silence until TCP has given up on both sides, and they are paused."""
    PAUSED_COMMAND = "paused-command"
    """Postcopy, then `migrate-pause`; both sides are paused, the link is healthy."""
    DEGRADED = "degraded"
    """Postcopy over a link that is slow, late and lossy: pages come, each after a while."""
    FLAPPING = "flapping"
    """Postcopy over a link with short outages, again and again: the migration goes on."""

    @classmethod
    def _missing_(cls, value: object) -> Scenario | None:
        """`paused-reset` is the full name of plain `paused`."""
        return cls.PAUSED if value == "paused-reset" else None


class Request(StrEnum):
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
    """SIGKILL to QEMU, until it is reaped. A control: no kernel may fail it."""
    QUERY_STATUS = "query-status"
    """QMP `query-status`, until its reply. A control: the monitor's own round trip."""


class Outcome(StrEnum):
    """How a trial ended."""

    RETURNED = "returned"
    """The answer came before the deadline. The only outcome with a latency of its own."""
    ASLEEP = "asleep"
    """No answer; a vCPU thread that was called sleeps in the fault."""
    SPINNING = "spinning"
    """No answer; vCPU threads that were called burn CPU time."""
    REFUSED = "refused"
    """The management layer answered with an error."""
    LOST = "lost"
    """No measurement was made; counted, never scored."""


HUNG = frozenset({Outcome.ASLEEP, Outcome.SPINNING})
"""Outcomes that are censored at the deadline."""

ANSWERED = frozenset({Outcome.RETURNED, Outcome.REFUSED})
"""Outcomes that have a latency."""

SCORED = HUNG | {Outcome.RETURNED}
"""Outcomes that measured something."""


class FaultPath(StrEnum):
    """How a vCPU got stuck."""

    GUP = "gup"
    """In get_user_pages(), called by KVM to map a guest page."""
    UACCESS = "uaccess"
    """In a page fault of the kernel's own, copying from or to guest memory."""
    ASYNC_PF = "async-pf"
    """Halted by KVM while a worker waits for the page."""
    NONE = "none"
    """Not stuck."""


class Backing(StrEnum):
    """What a guest's memory is, on the host."""

    ANONYMOUS = "anonymous"
    MEMFD = "memfd"
    """Shared memory, as for vhost-user."""
    HUGETLB = "hugetlb"
    """Shared memory of huge pages of 2 MiB."""


@dataclass(frozen=True)
class Shape:
    """The guest.

    :ivar memory_mib: all of its memory.
    :ivar preempt: whether pages that are asked for have a connection of their own.
    """

    vcpus: int = 1
    memory_mib: int = 16
    backing: Backing = Backing.ANONYMOUS
    preempt: bool = False
    image: str = "gup"

    @property
    def unusual(self) -> str:
        """In what it is not the usual guest, with a blank before it; "" for one that is."""
        usual = Shape()
        parts = []
        if self.vcpus != usual.vcpus:
            parts.append(f"{self.vcpus} vCPUs")
        if self.memory_mib != usual.memory_mib:
            parts.append(f"{self.memory_mib} MiB")
        if self.backing != usual.backing:
            parts.append(self.backing)
        if self.preempt:
            parts.append("preempt")
        if not self.tests_the_flag:
            parts.append(f"{self.image}: no test of the flag")
        return f" ({', '.join(parts)})" if parts else ""

    @property
    def tests_the_flag(self) -> bool:
        """Whether its vCPUs get stuck where FOLL_INTERRUPTIBLE matters."""
        return self.image == Shape().image


@dataclass(frozen=True)
class Kernel:
    """One kernel build, as uname -r and uname -v give it."""

    release: str
    version: str


@dataclass(frozen=True)
class Host:
    """The machine under test.

    :ivar kind: this machine, or a virtual one that runs another kernel on it.
    :ivar accelerator: what the kernel under test itself runs on in a lab (`kvm`, `tcg`);
        `kvm` natively, for that is what guests run on.
    :ivar machine: the physical host's name.
    """

    kind: Literal["native", "lab"]
    accelerator: str
    machine: str


@dataclass(frozen=True)
class Setup:
    """What else of a machine bears on its results. None: the kernel does not tell.

    :ivar kvm: KVM's module for this processor, as kvm_intel.
    :ivar nested: whether guests may use KVM themselves.
    :ivar governor: of the frequency of the CPUs; several by commas.
    :ivar thp: the mode of transparent huge pages. :ivar huge_pages: of 2 MiB, reserved.
    :ivar mitigations: what the kernel does about each flaw of the processor that it has.
    :ivar load: runnable threads in the minute before the run, which nobody calls a difference.
    """

    cpu: str | None = None
    cpus: int | None = None
    memory_mib: int | None = None
    kvm: str | None = None
    nested: bool | None = None
    governor: str | None = None
    turbo: bool | None = None
    smt: bool | None = None
    thp: str | None = None
    huge_pages: int | None = None
    ptrace_scope: int | None = None
    unprivileged_userfaultfd: bool | None = None
    mitigations: dict[str, str] = field(default_factory=dict)
    load: float | None = None


@dataclass(frozen=True)
class Before:
    """One vCPU thread just before the request.

    :ivar stack: functions, innermost first.
    :ivar called: whether a signal or a tracer waits for it to leave the kernel.
    """

    tid: int
    vcpu: int
    state: str
    wchan: str
    stack: tuple[str, ...]
    fault_path: FaultPath
    called: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class After(Before):
    """The same thread at the end. :ivar cpu_ns: CPU time it has burnt since."""

    cpu_ns: int


@dataclass(frozen=True)
class Evidence:
    """What was seen of each vCPU thread."""

    before: tuple[Before, ...] = ()
    after: tuple[After, ...] = ()


@dataclass(frozen=True)
class Stage:
    """A part of the trial, in nanoseconds since the trial began."""

    name: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class Recovery:
    """How the guest did after the link came back, in nanoseconds since then.

    :ivar completed_ns: until the migration had completed.
    :ivar next_pass_ns: until every vCPU had finished a pass. Either is None where the guest found
        its memory damaged before, be it without any recovery.
    :ivar memory: None where the guest could not be recovered, so that nobody knows.
    :ivar answered_ns: until a request that had hung was answered after all, 0 if it was just before
        the link came back; None otherwise.
    :ivar failure: why it could not be recovered.
    :ivar damage: what the guest said of its memory.
    """

    completed_ns: int | None
    next_pass_ns: int | None
    memory: Literal["whole", "damaged"] | None
    answered_ns: int | None = None
    failure: str | None = None
    damage: str | None = None


@dataclass(frozen=True)
class Slot:
    """The place of a boot in a campaign. :ivar number: of the boot, from 0."""

    campaign: str
    number: int


@dataclass(frozen=True)
class Record:
    """One trial.

    :ivar run_id: of the run that it belongs to; `seq` counts from 1 within it.
    :ivar reason: why, for `refused` and `lost`.
    :ivar latency_ns: from the request to its answer; None unless `returned` or `refused`.
    :ivar resolution_ns: how far apart the looks were that saw the answer; None where it was waited
        for, which has no such limit.
    :ivar qemu: QEMU's version.
    :ivar outage: the mechanism that was used, None where the scenario has no outage.
    :ivar started: UTC, ISO 8601.
    :ivar slot: the boot of a campaign that it was made in, None outside of one.
    :ivar setup: of the machine under test when the run began; None in older records.
    :ivar lab_setup: of the machine that a lab ran on, likewise; None outside of one.
    :ivar tool: the version of a program that made the request, where one did.
    """

    run_id: str
    seq: int
    request: Request
    scenario: Scenario
    shape: Shape
    outcome: Outcome
    deadline_ns: int
    kernel: Kernel
    boot_id: str
    host: Host
    started: str
    reason: str | None = None
    latency_ns: int | None = None
    qemu: str | None = None
    outage: str | None = None
    evidence: Evidence = field(default_factory=Evidence)
    stages: tuple[Stage, ...] = ()
    recovery: Recovery | None = None
    slot: Slot | None = None
    resolution_ns: int | None = None
    setup: Setup | None = None
    lab_setup: Setup | None = None
    tool: str | None = None
    schema: int = SCHEMA

    @property
    def waited_ns(self) -> int:
        """The latency, or for a hung trial the deadline that it is censored at."""
        return self.deadline_ns if self.latency_ns is None else self.latency_ns

    @property
    def damaged(self) -> bool:
        """Whether the guest found its memory changed."""
        return self.recovery is not None and self.recovery.memory == "damaged"


def to_line(record: Record) -> str:
    """A record as it stands in the file, without the newline."""
    return msgspec.json.encode(record).decode()


def from_line(line: str) -> Record:
    """What `to_line` gave.

    :raise StoreError: it is no record.
    """
    found = _decode(line.encode())
    if isinstance(found, _No):
        raise StoreError(f"{line[:60]!r} is {found.why}.")
    return found


def to_json(records: Sequence[Record]) -> str:
    """A JSON array, a record a line."""
    return "[" + ",\n ".join(map(to_line, records)) + "]"


@dataclass(frozen=True)
class Damage:
    """A line that is not a record. :ivar line: from 1. :ivar newer: it may be to later versions."""

    path: Path
    line: int
    why: str
    newer: bool = False

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.why}."


_decoder = msgspec.json.Decoder(Record)


@dataclass(frozen=True)
class _No:
    """Why a line is no record. :ivar newer: it may be one to later versions."""

    why: str
    newer: bool = False


def _decode(line: bytes) -> Record | _No:
    """A record, or why the line is none."""
    try:
        schema = msgspec.json.decode(line, type=dict[str, msgspec.Raw]).get("schema")
        number = msgspec.json.decode(schema, type=int) if schema else None
        if number is None:
            return _No("not a record, for it names no schema")
        if number > SCHEMA:
            why = f"schema {number} is newer than the {SCHEMA} known here; update kickbench"
            return _No(why, newer=True)
        record = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return _No(f"not a whole record ({error})")
    if (flaw := _no_trial(record)) is not None:
        return _No(f"not a record of a trial, {flaw}")
    return record


def _no_trial(record: Record) -> str | None:
    """Why it cannot have been written by a trial; None if it can."""
    if record.deadline_ns <= 0:
        return "whose deadline is above 0"
    if (record.latency_ns is not None) != (record.outcome in ANSWERED):
        return f"for {record.outcome} and its latency do not go together"
    if record.latency_ns is not None and record.latency_ns < 0:
        return "whose latency is not below 0"
    return None


def read(path: Path) -> tuple[list[Record], list[Damage]]:
    """Every record of a file, oldest first, and what could not be read.

    A damaged line costs only itself. A file that does not exist holds no records.

    :raise StoreError: the file cannot be read.
    """
    records: list[Record] = []
    damaged: list[Damage] = []
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise StoreError(f"The record file {path} cannot be read: {error.strerror}.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        found = _decode(line)
        if isinstance(found, Record):
            records.append(found)
        else:
            damaged.append(Damage(path, number, found.why, found.newer))
    return records, damaged


def append(path: Path, *records: Record) -> None:
    """Append records, all or none of them, even beside another process that appends.

    After a line that an earlier death left unfinished it starts a new one.

    :raise RecordNotWritten: it could not be written; the file is as it was.
    """
    text = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            size = os.lseek(fd, 0, os.SEEK_END)
            if size and os.pread(fd, 1, size - 1) != b"\n":
                text = b"\n" + text
            try:
                view = memoryview(text)
                while view:
                    view = view[os.write(fd, view) :]
                os.fdatasync(fd)
            except BaseException:
                os.ftruncate(fd, size)
                raise
        finally:
            os.close(fd)
    except OSError as error:
        raise RecordNotWritten(
            f"The record of trial {records[0].seq} could not be appended to {path} "
            f"({error.strerror}); the file is as it was before."
        ) from None
