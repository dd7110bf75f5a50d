# SPDX-License-Identifier: BSD-3-Clause
"""Every request, every scenario and every guest, on the booted kernel.

kickbench measures whether a kernel lets go of a stuck vCPU, so no test here requires that it does.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench_lib import architecture, ptrace
from bench_lib.deadline import Deadline
from bench_lib.errors import (
    BadShape,
    HugepagesMissing,
    ProgramMissing,
    PtraceForbidden,
    QemuTooOld,
)
from bench_lib.guest import debugger, features
from bench_lib.host import needs, setup
from bench_lib.host.need import Need
from bench_lib.record import (
    SCORED,
    Backing,
    Entry,
    ManagerName,
    Outcome,
    Record,
    RequestName,
    ScenarioName,
    Shape,
    WaitsFor,
)
from bench_lib.settings import Settings
from bench_lib.threads import look
from bench_lib.trial.batch import NativeRunner
from bench_lib.trial.case import AT_SWITCH, Case
from bench_lib.trial.requests.description import offered_by
from bench_lib.trial.requests.request import Reply, Request
from bench_lib.trial.requests.table import MAKERS
from bench_lib.trial.scenarios.description import SCENARIOS, Stuck
from tests.host.conftest import Command, more_huge_pages

pytestmark = pytest.mark.usefixtures("clean_host", "runtime")

QEMU = offered_by(ManagerName.QEMU)
"""The requests to QEMU. tests/host/test_libvirt.py has those to libvirt."""

ALWAYS = (RequestName.SIGKILL, RequestName.QUERY_STATUS)
ONLY_IN_LABS = frozenset({Need.NFS, Need.SWAP, Need.MEMORY_CONTROL})
STUCK = [
    name
    for name, each in SCENARIOS.items()
    if each.proves is not Stuck.RUNS and not each.needs & ONLY_IN_LABS
]


def trial(case: Case) -> Record:
    """The record of one trial."""
    (made,) = NativeRunner(Settings.from_environment()).run([case], lambda record: None)
    return made


@pytest.mark.parametrize("request_", QEMU)
def test_a_healthy_guest_answers_every_request(request_: RequestName) -> None:
    made = trial(Case(ScenarioName.IDLE, request_))
    assert made.outcome is Outcome.RETURNED, made.reason
    assert made.latency_ns is not None
    (request,) = (stage for stage in made.stages if stage.name == "request")
    assert 0 < made.latency_ns <= request.end_ns - request.start_ns
    polled = request_ in {RequestName.SIGUSR1, RequestName.DIRTY_RATE}
    polled = polled or "version 1" in (made.tool or "")
    assert (made.resolution_ns is not None) == polled


def test_a_healthy_guest_reports_its_dirty_rate_before_a_deadline_of_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """QEMU measures for a second, and that is not the host's delay."""
    monkeypatch.setenv("KICKBENCH_DEADLINE", "1")
    made = trial(Case(ScenarioName.IDLE, RequestName.DIRTY_RATE))
    assert made.outcome is Outcome.RETURNED, made.reason
    assert made.latency_ns is not None
    assert 1e9 < made.latency_ns <= made.deadline_ns == 2e9


@pytest.mark.parametrize("request_", QEMU)
def test_every_request_to_a_stuck_guest_is_measured(request_: RequestName) -> None:
    made = trial(Case(ScenarioName.BLACKHOLE, request_))
    assert made.outcome in SCORED, made.reason
    assert made.outcome is Outcome.RETURNED or request_ not in ALWAYS
    assert {each.entry for each in made.evidence.vcpus} == {Entry.GUP}


@pytest.mark.parametrize("scenario", STUCK)
def test_vcpus_are_stuck_in_every_scenario_that_proves_it(scenario: ScenarioName) -> None:
    made = trial(Case(scenario, RequestName.STOP))
    assert made.outcome in SCORED, made.reason
    assert {each.entry for each in made.evidence.vcpus} == {Entry.GUP}
    assert made.outage


def test_a_healthy_migration_has_no_outage() -> None:
    made = trial(Case(ScenarioName.POSTCOPY, RequestName.STOP))
    assert made.outcome in SCORED, made.reason
    assert made.outage is None


def test_paused_reset_is_another_name_of_paused(kickbench: Command) -> None:
    done = kickbench("trial", "--scenario", "paused-reset", "--request", "stop")
    assert "stop in paused:" in done.stdout


@pytest.mark.parametrize(
    "shape",
    [
        Shape(vcpus=8),
        Shape(memory_mib=64),
        Shape(backing=Backing.MEMFD),
        Shape(preempt=True),
    ],
    ids=str,
)
def test_guests_of_other_shapes_get_stuck_too(shape: Shape) -> None:
    made = trial(Case(ScenarioName.BLACKHOLE, RequestName.STOP, shape))
    assert made.outcome in SCORED, made.reason
    assert made.shape == shape
    assert [each.entry for each in made.evidence.vcpus] == [Entry.GUP] * shape.vcpus


@pytest.mark.parametrize("vcpus", [1, 2])
@pytest.mark.parametrize(
    "image, entry", [("pv-steal-time", Entry.UACCESS), ("pv-kvmclock", Entry.GPC)]
)
@pytest.mark.parametrize("scenario", AT_SWITCH)
def test_a_page_that_a_guest_shares_with_kvm_is_missing_at_the_switch(
    scenario: ScenarioName, image: str, entry: Entry, vcpus: int
) -> None:
    made = trial(Case(scenario, RequestName.SIGKILL, Shape(vcpus=vcpus, image=image)))
    assert made.outcome is Outcome.RETURNED, made.reason
    first = made.evidence.vcpus[0]
    assert (first.entry, first.waits_for) == (entry, WaitsFor.USERFAULT)


HUGE = Case(ScenarioName.BLACKHOLE, RequestName.STOP, Shape(backing=Backing.HUGETLB))


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """The huge pages that two guests need."""
    with more_huge_pages(HUGE.huge_pages):
        yield


@pytest.mark.usefixtures("huge_pages")
def test_a_guest_on_huge_pages_gets_stuck_too() -> None:
    made = trial(HUGE)
    assert made.outcome in SCORED, made.reason


def test_too_few_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The huge pages that others use stay reserved."""
    monkeypatch.setattr(setup, "huge_pages", lambda: 40)
    monkeypatch.setattr(setup, "free_huge_pages", lambda: 3)
    with pytest.raises(
        HugepagesMissing, match=r"need 16 .* has 3; .*`echo 53 \| tee /sys/.*2048kB"
    ):
        trial(HUGE)


def test_with_interrupts_enabled_a_missing_page_is_asynchronous() -> None:
    made = trial(Case(ScenarioName.BLACKHOLE, RequestName.STOP, Shape(image="async-pf")))
    assert made.outcome is Outcome.RETURNED, made.reason
    assert {each.entry for each in made.evidence.vcpus} == {Entry.ASYNC_PF}


def test_an_emulated_guest_spins_and_one_that_is_not_emulated_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KICKBENCH_DEADLINE", "2")
    made = trial(Case(ScenarioName.BLACKHOLE, RequestName.STOP, Shape(image="uaccess")))
    if Path("/sys/module/kvm_pvm").exists():
        assert made.outcome is Outcome.SPINNING, made.reason
        assert {each.entry for each in made.evidence.vcpus} == {Entry.UACCESS}
        # Also at the end, when most looks at it show no stack.
        blocker = next(each for each in made.evidence.after if each.tid == made.evidence.blocker)
        assert blocker.entry is Entry.UACCESS
    else:
        assert made.outcome is Outcome.LOST
        assert made.reason is not None
        assert "stuck on path uaccess" in made.reason


def test_gdb_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "GDB", "no-such-gdb")
    with pytest.raises(ProgramMissing, match="no-such-gdb is not installed"):
        trial(Case(ScenarioName.IDLE, RequestName.GDB_ATTACH))


@pytest.mark.parametrize("request_", [RequestName.GDB_ATTACH, RequestName.PTRACE_INTERRUPT])
def test_ptrace_is_forbidden(monkeypatch: pytest.MonkeyPatch, request_: RequestName) -> None:
    def refuse(request: int, tid: int, data: int = 0) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(ptrace, "ptrace", refuse)
    # The program that a sibling process, like gdb, runs to trace.
    monkeypatch.setattr(ptrace, "_SEIZE", "raise SystemExit(1)")
    with pytest.raises(PtraceForbidden, match="CAP_SYS_PTRACE"):
        trial(Case(ScenarioName.IDLE, request_))


def test_a_qemu_without_preempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "PREEMPT", "no-such-capability")
    with pytest.raises(QemuTooOld, match=r"lacks no-such-capability \(from QEMU 7.1 on\)"):
        trial(Case(ScenarioName.BLACKHOLE, RequestName.STOP, Shape(preempt=True)))


def _guests_of(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    """Start guests with another machine of QEMU."""
    other = dataclasses.replace(architecture.for_trials(), machine=machine)
    monkeypatch.setattr(architecture, "for_trials", lambda: other)


def test_more_vcpus_than_the_machine_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    _guests_of(monkeypatch, "none")
    with pytest.raises(BadShape, match="at most 1 vCPUs"):
        trial(Case(ScenarioName.IDLE, RequestName.STOP, Shape(vcpus=2)))


def test_a_kick_that_is_not_taken_is_seen_pending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a kernel without the flag, which for sigusr1 differs in nothing else."""
    monkeypatch.setattr(look, "_own_pending", lambda status: 1 << (signal.SIGUSR1 - 1))
    made = trial(Case(ScenarioName.BLACKHOLE, RequestName.SIGUSR1))
    assert made.outcome is Outcome.ASLEEP
    assert made.latency_ns is None


# A process that is killed takes its other signals first, so SIGUSR1 may still be answered. The
# kernel shows a stopped process, and counts it as frozen.
ANSWERED_BEFORE_DEATH = {
    RequestName.SIGKILL,
    RequestName.CTRL_C,
    RequestName.SIGUSR1,
    RequestName.PROC_MAPS,
    RequestName.PS,
    RequestName.CGROUP_FREEZE,
}


@pytest.mark.parametrize("request_", [each for each in QEMU if each not in ANSWERED_BEFORE_DEATH])
def test_a_guest_that_dies_after_the_request_has_died(
    monkeypatch: pytest.MonkeyPatch, request_: RequestName
) -> None:
    """This is not an answer, even to requests that end the guest, and not a lost trial."""
    maker = MAKERS[request_]
    send = maker.send

    async def and_dies(self: Request) -> None:
        # A stopped QEMU cannot answer, and only SIGKILL ends it before its threads take their
        # other pending signals.
        os.kill(self.guest.child.pid, signal.SIGSTOP)
        await send(self)
        os.kill(self.guest.child.pid, signal.SIGKILL)

    monkeypatch.setattr(maker, "send", and_dies)
    made = trial(Case(ScenarioName.BLACKHOLE, request_))
    assert made.outcome is Outcome.DIED, made.reason
    assert made.latency_ns is None
    assert made.reason is not None
    assert "signal 9" in made.reason or "SIGKILL" in made.reason


def test_an_answer_that_is_first_seen_after_the_deadline_is_a_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KICKBENCH_DEADLINE", "0.01")
    maker = MAKERS[RequestName.SIGUSR1]
    answer = maker.answer

    async def late(self: Request, deadline: Deadline) -> Reply | None:
        # As if another process had the only CPU.
        await asyncio.sleep(deadline.remaining_s)
        return await answer(self, deadline)

    monkeypatch.setattr(maker, "answer", late)
    made = trial(Case(ScenarioName.IDLE, RequestName.SIGUSR1))
    assert made.outcome is Outcome.UNANSWERED
    assert made.latency_ns is None
    assert made.late_ns is not None
    assert made.late_ns > made.deadline_ns


@pytest.mark.parametrize("request_", [RequestName.PTRACE_INTERRUPT, RequestName.GDB_ATTACH])
def test_a_guest_that_dies_before_a_debugger_holds_it_has_died(
    monkeypatch: pytest.MonkeyPatch, request_: RequestName
) -> None:
    """The debugger fails because of that, but this does not make the trial lost."""
    maker = MAKERS[request_]
    send = maker.send

    async def dying(self: Request) -> None:
        os.kill(self.guest.child.pid, signal.SIGKILL)
        await send(self)

    monkeypatch.setattr(maker, "send", dying)
    made = trial(Case(ScenarioName.BLACKHOLE, request_))
    assert made.outcome is Outcome.DIED, made.reason
    assert made.latency_ns is None


def test_a_gdb_that_has_not_interrupted_every_thread_is_not_a_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KICKBENCH_DEADLINE", "0.5")
    monkeypatch.setattr(debugger.Gdb, "attach", lambda self, pid: time.monotonic_ns())
    made = trial(Case(ScenarioName.BLACKHOLE, RequestName.GDB_ATTACH))
    assert made.outcome is Outcome.LOST
    assert made.reason == "gdb had not attached to every vCPU thread by the deadline."


def test_a_qemu_without_the_machine_of_our_guests(monkeypatch: pytest.MonkeyPatch) -> None:
    _guests_of(monkeypatch, "nothing")
    with pytest.raises(QemuTooOld, match="has no machine type nothing"):
        trial(Case(ScenarioName.IDLE, RequestName.STOP))
