# SPDX-License-Identifier: BSD-3-Clause
"""The parts of a record. `SCHEMA` is the version of the keys and their meaning.

A new key does not change the version. A change of meaning raises it, and older schemas stay
readable (see `schema1` and `schema2`). The record file stores equal stacks once (see `stored`). The
parts stay in one module, because the reference of the file is generated from it and shows them in
this order.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from bench_lib.record.names import (
    Backing,
    Entry,
    Family,
    ManagerName,
    Outcome,
    RequestName,
    Role,
    ScenarioName,
    WaitsFor,
)

SCHEMA = 3

Nanoseconds = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""A time of up to 292 years. Python could not divide much larger integers."""

USUAL_WORK = "memory"
"""The work of a Linux guest that tables do not name."""


@dataclass(frozen=True)
class Shape:
    """The shape of a guest.

    :ivar memory_mib: the size of all of its memory.
    :ivar backing: the kind of host memory behind it.
    :ivar preempt: whether the migration sends requested pages over a separate connection.
    :ivar image: the name of the workload that the guest runs.
    :ivar cpu: the guest's CPU model and features, as QEMU's -cpu takes them; None for the
        workload's own.
    :ivar work: what a Linux guest does; None for guest images.
    """

    vcpus: int = 1
    memory_mib: int = 16
    backing: Backing = Backing.ANONYMOUS
    preempt: bool = False
    image: str = "gup"
    cpu: str | None = None
    work: str | None = None

    @property
    def unusual(self) -> str:
        """The differences from the usual guest in parentheses, with a leading space; "" if none."""
        usual = Shape()
        parts = []
        if self.work is not None:
            parts.append(self.image)
        if self.work not in {None, USUAL_WORK}:
            parts.append(f"work {self.work}")
        if self.vcpus != usual.vcpus:
            parts.append(f"{self.vcpus} vCPUs")
        if self.memory_mib != usual.memory_mib:
            parts.append(f"{self.memory_mib} MiB")
        if self.backing != usual.backing:
            parts.append(self.backing)
        if self.preempt:
            parts.append("preempt")
        if self.cpu is not None:
            parts.append(f"cpu {self.cpu}")
        if self.work is None and not self.tests_the_flag:
            parts.append(f"{self.image}: no test of the flag")
        return f" ({', '.join(parts)})" if parts else ""

    @property
    def tests_the_flag(self) -> bool:
        """Whether the guest's vCPUs get stuck where FOLL_INTERRUPTIBLE matters."""
        return self.image == Shape().image


@dataclass(frozen=True)
class Kernel:
    """One kernel build.

    :ivar release: the output of uname -r.
    :ivar version: the output of uname -v.
    """

    release: str
    version: str


@dataclass(frozen=True)
class Host:
    """The machine under test.

    :ivar kind: `native` for the physical host, `lab` for a virtual machine on it that runs another
        kernel.
    :ivar accelerator: the accelerator of the lab's virtual machine (`kvm` or `tcg`); always `kvm`
        for `native`.
    :ivar machine: the name of the physical host.
    """

    kind: Literal["native", "lab"]
    accelerator: str
    machine: str


@dataclass(frozen=True)
class Setup:
    """Other facts about a machine that affect its results. None means that the kernel hides a fact.

    :ivar cpu: the model of the processor.
    :ivar kvm: the KVM module for this processor, such as kvm_intel.
    :ivar nested: whether guests may use KVM themselves.
    :ivar governor: the frequency governor of the CPUs; several are separated by commas.
    :ivar turbo: whether turbo frequencies are on.
    :ivar thp: the mode of transparent huge pages.
    :ivar huge_pages: how many huge pages of 2 MiB are reserved.
    :ivar ptrace_scope: the value of kernel.yama.ptrace_scope.
    :ivar mitigations: for each flaw of the processor, what the kernel does about it.
    :ivar clocksource: the clock that the kernel takes its time from, such as tsc. If it is not the
        TSC, KVM updates the clocks that it shares with guests far more often.
    :ivar fuse_request_timeout: the value of fs.fuse.default_request_timeout, in seconds: after that
        time the kernel ends the connection to a FUSE server that does not answer. 0 means never.
    :ivar fuse_max_request_timeout: the value of fs.fuse.max_request_timeout, in seconds: the
        longest that a FUSE server may ask for. 0 means no limit.
    :ivar shmem_thp: the mode of huge pages in shared memory.
    :ivar swap: the devices and files that the kernel swaps to, each with its type.
    :ivar swappiness: the value of vm.swappiness.
    :ivar dirty_limit: how much memory may be dirty before the kernel makes writers wait: a
        percentage (vm.dirty_ratio) or a number of bytes (vm.dirty_bytes).
    :ivar load: the average number of runnable threads in the minute before the run. It never counts
        as a difference between machines.
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
    clocksource: str | None = None
    fuse_request_timeout: int | None = None
    fuse_max_request_timeout: int | None = None
    shmem_thp: str | None = None
    swap: tuple[str, ...] | None = None
    swappiness: int | None = None
    dirty_limit: str | None = None
    load: float | None = None


@dataclass(frozen=True)
class Thread:
    """One thread of QEMU at one moment.

    :ivar vcpu: the number of the vCPU that the thread runs; None for another thread.
    :ivar name: the name of the thread (comm).
    :ivar state: the state letter (R, S, D, ...) of proc(5).
    :ivar wchan: the kernel function that the thread sleeps in, "0" if it does not sleep.
    :ivar stack: kernel functions, innermost first; empty in user mode and in the guest.
    :ivar entry: how the thread got into the kernel's wait.
    :ivar waits_for: what the thread waits for there.
    :ivar signals: names of the signals that are pending for this thread alone.
    :ivar called: whether a signal is pending for the thread or a tracer waits for it, so that it
        should leave the kernel.
    :ivar cpu_ns: the CPU time that the thread has used since the look before the request; 0 in that
        look itself.
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
        """The name of the thread in output: vCPU 0, main, IO iothread0."""
        if self.role is Role.VCPU:
            return f"vCPU {self.vcpu}"
        return self.role if self.role is Role.MAIN else self.name


@dataclass(frozen=True)
class Evidence:
    """What the kernel showed of QEMU's threads.

    :ivar before: the threads just before the request.
    :ivar after: the threads at the answer or the deadline.
    :ivar pending: names of the signals that were pending for the whole process at the end.
    :ivar blocker: the id of the thread that explains a hang; None if none was found.
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
    def mix(self) -> str:
        """How many vCPU threads had each entry just before the request: 2 uaccess, 1 gup.

        For a guest with one vCPU it is just the entry. It is "" if no vCPU thread was seen.
        """
        counts = Counter(each.entry for each in self.vcpus)
        if counts.total() == 1:
            return next(iter(counts))
        # The most frequent entries come first, and those that are as frequent as each other come in
        # the order of their definition.
        order = sorted(Entry, key=lambda entry: -counts[entry])
        return ", ".join(f"{counts[entry]} {entry}" for entry in order if counts[entry])

    @property
    def blocking(self) -> Thread | None:
        """The thread that explains a hang, as it was at the end; None if none was found."""
        return next((each for each in self.after if each.tid == self.blocker), None)


@dataclass(frozen=True)
class Stage:
    """A part of the trial; its times count from the start of the trial."""

    name: str
    start_ns: Nanoseconds
    end_ns: Nanoseconds


@dataclass(frozen=True)
class Recovery:
    """What happened to the guest after the stall ended. Times count from the end of the stall.

    :ivar completed_ns: when the migration had completed; None if it had not before the guest
        reported damaged memory, with or without a recovery.
    :ivar next_pass_ns: when every vCPU had finished a pass; None when `completed_ns` is None.
    :ivar memory: what the guest's check of its memory found; None if the guest could not be
        recovered, so that its memory was not checked.
    :ivar answered_ns: when a request that had hung was answered; 0 if the answer came just before
        the stall ended; None if the request had not hung, or was not answered.
    :ivar failure: why the guest could not be recovered.
    :ivar damage: what the guest reported about its memory.
    """

    completed_ns: Nanoseconds | None
    next_pass_ns: Nanoseconds | None
    memory: Literal["whole", "damaged"] | None
    answered_ns: Nanoseconds | None = None
    failure: str | None = None
    damage: str | None = None


@dataclass(frozen=True)
class FollowUp:
    """A second request, made after the first one was answered or had hung (`--then`).

    :ivar request: the second request.
    :ivar outcome: its outcome.
    :ivar deadline_ns: when its answer was no longer waited for.
    :ivar latency_ns: from the second request to its answer; None unless `returned` or `refused`.
    :ivar ended_ns: from the second request to QEMU's death, for requests that another program than
        QEMU answers; None for all others.
    :ivar reason: why, for `refused`, `died` and `lost`.
    """

    request: RequestName
    outcome: Outcome
    deadline_ns: Nanoseconds
    latency_ns: Nanoseconds | None = None
    ended_ns: Nanoseconds | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Slot:
    """The place of a boot in a campaign.

    :ivar campaign: the id of the campaign.
    :ivar number: the number of the boot in it, from 0.
    """

    campaign: str
    number: int


def place(scenario: ScenarioName, manager: ManagerName, shape: Shape) -> str:
    """Name a scenario, and what is unusual about its guest: blackhole (4 vCPUs)."""
    by = "" if manager is ManagerName.QEMU else f" by {manager}"
    return f"{scenario}{by}{shape.unusual}"


@dataclass(frozen=True)
class Key:
    """What makes trials comparable: trials with equal keys measure the same thing."""

    host: Host
    request: RequestName
    scenario: ScenarioName
    manager: ManagerName
    shape: Shape

    @property
    def place(self) -> str:
        """The conditions of the request, without the host: blackhole (4 vCPUs)."""
        return place(self.scenario, self.manager, self.shape)

    @property
    def tests_the_flag(self) -> bool:
        """Whether vCPUs get stuck where FOLL_INTERRUPTIBLE matters.

        Only userfaultfd looks at it, and no file system or swap device does.
        """
        return self.shape.tests_the_flag and self.scenario.family is not Family.STORAGE

    @property
    def name(self) -> str:
        """The request and its conditions, without the host: stop in blackhole (4 vCPUs)."""
        return f"{self.request} in {self.place}"


@dataclass(frozen=True)
class Record:
    """One trial.

    :ivar run_id: the id of the run that made the trial.
    :ivar seq: the number of the trial in its run, from 1.
    :ivar deadline_ns: how long after the request the trial stops waiting for an answer.
    :ivar boot_id: the id of the boot that the trial was made in.
    :ivar started: the start of the trial, in UTC (ISO 8601).
    :ivar reason: why the outcome is `refused`, `died` or `lost`; None for other outcomes.
    :ivar latency_ns: from the request to its answer; None unless `returned` or `refused`.
    :ivar qemu: the version of QEMU.
    :ivar outage: the mechanism that made the scenario; None if the scenario has no outage.
    :ivar slot: the place of the trial's boot in a campaign; None outside of a campaign.
    :ivar resolution_ns: the longest time between two looks for the answer, if the trial had to poll
        for it; None if it waited for an event, which has no such limit.
    :ivar setup: the set-up of the machine under test when the run started; None in older records.
    :ivar lab_setup: the set-up of the machine that the lab ran on; None without a lab, and in older
        records.
    :ivar lab_qemu: the version of the QEMU that the lab ran on; None without a lab, and in older
        records.
    :ivar tool: the version of the program that made the request, such as gdb; None if there was
        none.
    :ivar manager: the manager of the guest.
    :ivar late_ns: from the request to an answer that arrived after the deadline, within half a
        second, after the second request (`then`) or when the stall ended; None if there was none.
        In a trial with recovery, `recovery` has the time of a later answer.
    :ivar kickbench: the version of kickbench that made the record; None in older records.
    :ivar image_sha256: the hash of the guest's image; None in older records.
    :ivar ended_ns: from the request to QEMU's death, for requests that another program than QEMU
        answers; None for all others.
    :ivar manager_version: the version of libvirtd; None if QEMU runs by itself.
    :ivar then: the second request; None without `--then`.
    :ivar survivors: the processes that did not end when they were killed at the end of the trial,
        each as a sentence.
    :ivar guest_kernel: the kernel that a Linux guest runs; None for guest images.
    :ivar guest_start: whether a Linux guest was booted in this trial, or restored from a saved
        state; None for guest images.
    :ivar guest_boot_ns: how long a guest took to boot that was restored; None for others.
    :ivar tried: whether the trial was begun. It is false if the machine lacks what the scenario or
        the request needs, and was asked for other trials as well; the trial is lost then.
    :ivar store: what the guest's memory came from, in scenarios of the family storage; None in
        others.
    :ivar machine_id: the id of the physical host (`host.machine` is only its name); None if it has
        none, and in older records.
    :ivar worker_cpu: the share of one CPU that the fleet's worker used while the boot of the trial
        was measured; None outside of a fleet.
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
    ended_ns: Nanoseconds | None = None
    manager_version: str | None = None
    then: FollowUp | None = None
    guest_kernel: Kernel | None = None
    guest_start: Literal["booted", "restored"] | None = None
    guest_boot_ns: Nanoseconds | None = None
    store: str | None = None
    tried: bool = True
    machine_id: str | None = None
    worker_cpu: float | None = None
    schema: int = SCHEMA

    @property
    def key(self) -> Key:
        """What the trial measured; trials with the same key are comparable."""
        return Key(self.host, self.request, self.scenario, self.manager, self.shape)

    @property
    def waited_ns(self) -> int:
        """The latency; for a trial without an answer, the deadline, at which it is censored."""
        return self.deadline_ns if self.latency_ns is None else self.latency_ns

    @property
    def damaged(self) -> bool:
        """Whether the guest found its memory changed."""
        return self.recovery is not None and self.recovery.memory == "damaged"
