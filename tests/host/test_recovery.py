# SPDX-License-Identifier: BSD-3-Clause
"""The guest after the request: it is migrated, runs, and its memory is whole."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from bench_lib.cli.trials import exit_status
from bench_lib.deadline import Deadline
from bench_lib.errors import MemoryDamaged, NotRecoverable, NotStuck, TrialLost
from bench_lib.record import (
    SCORED,
    Backing,
    Family,
    ManagerName,
    Outcome,
    Record,
    Recovery,
    RequestName,
    ScenarioName,
    Shape,
)
from bench_lib.settings import Settings
from bench_lib.trial import recovery
from bench_lib.trial.batch import NativeRunner
from bench_lib.trial.case import Case
from bench_lib.trial.requests.description import REQUESTS, offered_by
from bench_lib.trial.requests.monitors import Stop
from bench_lib.trial.scenarios.description import SCENARIOS
from bench_lib.trial.scenarios.migration import Blackhole
from bench_lib.trial.scene import MigrationScene
from tests.host.conftest import Command, run_driver

pytestmark = pytest.mark.usefixtures("clean_host", "runtime")

RECOVERABLE = [
    name
    for name, each in SCENARIOS.items()
    if each.unrecoverable is None and name.family is Family.MIGRATION
]
QEMU = offered_by(ManagerName.QEMU)
"""The requests to QEMU. tests/host/test_libvirt.py recovers guests of libvirt."""

SURVIVED = [each for each in QEMU if not REQUESTS[each].ends_guest]


def trial(case: Case) -> Record:
    """The record of one trial."""
    (made,) = NativeRunner(Settings.from_environment()).run([case], lambda record: None)
    return made


def _is_whole(made: Record) -> None:
    assert made.outcome in SCORED, made.reason
    assert made.recovery is not None
    assert made.recovery.memory == "whole"
    assert made.recovery.completed_ns is not None
    assert made.recovery.completed_ns >= 0
    assert made.recovery.next_pass_ns is not None
    assert made.recovery.next_pass_ns > 0
    # A gdb that hung was ended, because QEMU can do nothing while it is attached.
    waited = made.outcome is not Outcome.RETURNED and made.request is not RequestName.GDB_ATTACH
    assert (made.recovery.answered_ns is not None) == waited


@pytest.mark.parametrize("scenario", RECOVERABLE)
def test_a_guest_is_whole_after_every_failure(scenario: ScenarioName) -> None:
    _is_whole(trial(Case(scenario, RequestName.STOP, recover=True)))


@pytest.mark.parametrize(
    "shape",
    [Shape(vcpus=4), Shape(memory_mib=64), Shape(backing=Backing.MEMFD), Shape(preempt=True)],
    ids=str,
)
def test_a_guest_of_any_shape_is_whole(shape: Shape) -> None:
    _is_whole(trial(Case(ScenarioName.BLACKHOLE, RequestName.STOP, shape, recover=True)))


@pytest.mark.parametrize("request_", [each for each in SURVIVED if each is not RequestName.STOP])
def test_a_guest_is_whole_after_every_request_that_it_survives(request_: RequestName) -> None:
    _is_whole(trial(Case(ScenarioName.PAUSED, request_, recover=True)))


def test_a_recovery_is_summarized(kickbench: Command) -> None:
    done = kickbench("trial", "--scenario", "paused", "--request", "stop", "--recover")
    assert done.returncode == 0, done.stderr
    assert "recovered after stop in paused: 1 of 1 whole, " in done.stdout
    assert "1 of 1 whole" in kickbench("report").stdout


def test_a_page_that_was_changed_from_outside_is_reported_as_damage(clean_host: Path) -> None:
    done = run_driver("planted.py")
    assert done.returncode == MemoryDamaged.exit_status, done.stderr
    assert "MEMORY DAMAGED: the guest of trial 1" in done.stderr
    assert "1 of 1 DAMAGED" in done.stdout


def test_damage_that_was_found_before_any_recovery_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A guest that finds damage is not stuck any more, but the damage is the reason to report."""

    async def damaged(self: Blackhole, scene: MigrationScene) -> str | None:
        number = "0" * 16
        text = f"!damage vcpu=00 page={number} expected={number} found={number}\n"
        scene.guest.serial.reports.feed(text.encode())
        raise NotStuck("Not every vCPU was seen stuck.")

    monkeypatch.setattr(Blackhole, "strand", damaged)
    made = trial(Case(ScenarioName.BLACKHOLE, RequestName.STOP))
    assert made.outcome is Outcome.LOST
    assert made.reason is not None
    assert made.recovery == Recovery(None, None, "damaged", damage=made.reason)
    assert made.reason.startswith("The guest found its memory damaged: vCPU 0")


@pytest.mark.parametrize("request_", [each for each in QEMU if each not in SURVIVED])
def test_a_request_that_ends_the_guest_leaves_nothing_to_recover(
    kickbench: Command, request_: RequestName
) -> None:
    done = kickbench("trial", "--scenario", "blackhole", "--request", request_, "--recover")
    assert done.returncode == NotRecoverable.exit_status
    assert f"{request_} ends the guest" in done.stderr
    assert not Path(".asv/records.jsonl").exists()


def test_a_guest_that_dies_in_its_recovery_keeps_its_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def kill(self: Stop, deadline: Deadline) -> None:
        self.guest.child.signal(signal.SIGKILL)

    monkeypatch.setattr(Stop, "undo", kill)
    made = trial(Case(ScenarioName.PAUSED, RequestName.STOP, recover=True))
    assert made.outcome in SCORED
    assert made.recovery is not None
    assert made.recovery.memory is None
    assert made.recovery.failure is not None
    assert "killed by signal 9" in made.recovery.failure
    assert exit_status([made]) == TrialLost.exit_status


def test_a_recovery_over_a_link_that_stays_cut_fails_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = recovery._continue
    monkeypatch.setattr(recovery, "_continue", lambda scene, limit_s: go_on(scene, 2.0))

    async def nothing(self: Blackhole, scene: MigrationScene) -> None:
        pass

    monkeypatch.setattr(Blackhole, "release", nothing)
    made = trial(Case(ScenarioName.BLACKHOLE, RequestName.STOP, recover=True))
    assert made.outcome in SCORED
    assert made.recovery is not None
    assert made.recovery.failure is not None
    assert made.recovery.failure.startswith("The migration was not recovered in 2 attempts")
