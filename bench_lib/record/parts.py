# SPDX-License-Identifier: BSD-3-Clause
"""The parts of a record. Keys and their meaning are fixed by `SCHEMA`.

Keys may be added under the same number; a change of meaning raises it, and older schemas stay
readable (see `schema1`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from bench_lib.record.names import (
    Backing,
    Entry,
    ManagerName,
    Outcome,
    RequestName,
    Role,
    ScenarioName,
    WaitsFor,
)

SCHEMA = 2

Nanoseconds = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""No trial takes 292 years, and Python cannot divide what is far above that."""


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
class Thread:
    """One thread of QEMU at one moment.

    :ivar vcpu: the number of the vCPU that it runs; None for another thread.
    :ivar name: as the kernel has it (comm).
    :ivar state: R, S, D, ... as in proc(5).
    :ivar wchan: the kernel function that it sleeps in, "0" if it does not sleep.
    :ivar stack: kernel functions, innermost first; empty while it runs in user mode or guest.
    :ivar signals: names of the signals that wait for this thread alone.
    :ivar called: whether a signal or a tracer waits for it to leave the kernel.
    :ivar cpu_ns: CPU time that it has burnt since the look before the request; 0 in that look.
    """

    tid: int
    role: Role
    vcpu: int | None
    name: str
    state: str
    wchan: str
    stack: tuple[str, ...]
    entry: Entry
    waits_for: WaitsFor
    signals: tuple[str, ...] = ()
    called: bool = False
    cpu_ns: Nanoseconds = 0

    @property
    def label(self) -> str:
        """What people call it: vCPU 0, main, IO iothread0."""
        if self.role is Role.VCPU:
            return f"vCPU {self.vcpu}"
        return self.role if self.role is Role.MAIN else self.name


@dataclass(frozen=True)
class Evidence:
    """What the kernel showed of QEMU's threads.

    :ivar before: just before the request; `after` at its answer or its deadline.
    :ivar pending: names of the signals that waited for QEMU as a whole at the end.
    :ivar blocker: the id of the thread that explains a hang; None where none was found.
    """

    before: tuple[Thread, ...] = ()
    after: tuple[Thread, ...] = ()
    pending: tuple[str, ...] = ()
    blocker: int | None = None

    @property
    def vcpus(self) -> tuple[Thread, ...]:
        """The vCPU threads just before the request."""
        return tuple(each for each in self.before if each.role is Role.VCPU)

    @property
    def blocking(self) -> Thread | None:
        """The thread that explains a hang, as it was at the end."""
        return next((each for each in self.after if each.tid == self.blocker), None)


@dataclass(frozen=True)
class Stage:
    """A part of the trial, in nanoseconds since the trial began."""

    name: str
    start_ns: Nanoseconds
    end_ns: Nanoseconds


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

    completed_ns: Nanoseconds | None
    next_pass_ns: Nanoseconds | None
    memory: Literal["whole", "damaged"] | None
    answered_ns: Nanoseconds | None = None
    failure: str | None = None
    damage: str | None = None


@dataclass(frozen=True)
class Slot:
    """The place of a boot in a campaign. :ivar number: of the boot, from 0."""

    campaign: str
    number: int


@dataclass(frozen=True)
class Key:
    """What makes trials comparable: those of one key are of the same thing."""

    host: Host
    request: RequestName
    scenario: ScenarioName
    manager: ManagerName
    shape: Shape

    @property
    def place(self) -> str:
        """Where the request was made, without the host: blackhole (4 vCPUs)."""
        by = "" if self.manager is ManagerName.QEMU else f" by {self.manager}"
        return f"{self.scenario}{by}{self.shape.unusual}"

    @property
    def name(self) -> str:
        """What the trials are of, without the host: stop in blackhole (4 vCPUs)."""
        return f"{self.request} in {self.place}"


@dataclass(frozen=True)
class Record:
    """One trial.

    :ivar run_id: of the run that it belongs to; `seq` counts from 1 within it.
    :ivar reason: why, for `refused`, `died` and `lost`.
    :ivar latency_ns: from the request to its answer; None unless `returned` or `refused`.
    :ivar late_ns: from the request to an answer that arrived after the deadline, but within a
        second or when the stall was ended; None where there was none. Where the guest was
        recovered, the time of a later answer is in `recovery`.
    :ivar resolution_ns: how far apart the looks were that saw the answer; None where it was waited
        for, which has no such limit.
    :ivar qemu: QEMU's version.
    :ivar outage: the mechanism that was used, None where the scenario has no outage.
    :ivar started: UTC, ISO 8601.
    :ivar slot: the boot of a campaign that it was made in, None outside of one.
    :ivar setup: of the machine under test when the run began; None in older records.
    :ivar lab_setup: of the machine that a lab ran on, likewise; None outside of one.
    :ivar lab_qemu: the version of the QEMU that a lab ran on; None outside of one, and in older
        records.
    :ivar tool: the version of a program that made the request, where one did.
    :ivar kickbench: the version that made the record; None in older records.
    :ivar image_sha256: of the guest's image; None in older records.
    :ivar survivors: what did not end when it was killed at the end of the trial, in words.
    """

    run_id: str
    seq: int
    request: RequestName
    scenario: ScenarioName
    shape: Shape
    outcome: Outcome
    deadline_ns: Nanoseconds
    kernel: Kernel
    boot_id: str
    host: Host
    started: str
    reason: str | None = None
    latency_ns: Nanoseconds | None = None
    qemu: str | None = None
    outage: str | None = None
    evidence: Evidence = field(default_factory=Evidence)
    stages: tuple[Stage, ...] = ()
    recovery: Recovery | None = None
    slot: Slot | None = None
    resolution_ns: Nanoseconds | None = None
    setup: Setup | None = None
    lab_setup: Setup | None = None
    lab_qemu: str | None = None
    tool: str | None = None
    manager: ManagerName = ManagerName.QEMU
    late_ns: Nanoseconds | None = None
    kickbench: str | None = None
    image_sha256: str | None = None
    survivors: tuple[str, ...] = ()
    schema: int = SCHEMA

    @property
    def key(self) -> Key:
        """What it is comparable with."""
        return Key(self.host, self.request, self.scenario, self.manager, self.shape)

    @property
    def waited_ns(self) -> int:
        """The latency, or for a trial without an answer the deadline that it is censored at."""
        return self.deadline_ns if self.latency_ns is None else self.latency_ns

    @property
    def damaged(self) -> bool:
        """Whether the guest found its memory changed."""
        return self.recovery is not None and self.recovery.memory == "damaged"
