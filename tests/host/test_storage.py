# SPDX-License-Identifier: BSD-3-Clause
"""Guests whose memory comes from a store that stops answering."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bench_lib.errors import BadShape, KickbenchError, NotOffered
from bench_lib.record import (
    SCORED,
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
from bench_lib.trial import leftovers
from bench_lib.trial.batch import NativeRunner
from bench_lib.trial.case import Case
from bench_lib.trial.requests.description import REQUESTS, offered_by
from bench_lib.trial.scenarios.description import FUSE, SCENARIOS
from tests.host.conftest import Command, all_that_is_left, run_driver

pytestmark = pytest.mark.usefixtures("clean_host", "runtime")

DEADLINE_S = 1.0
"""Seconds to wait for an answer. An answer takes less than a tenth of that."""

ON_FUSE = [name for name, each in SCENARIOS.items() if each.needs == FUSE]

SURVIVED = [each for each in offered_by(ManagerName.QEMU) if not REQUESTS[each].ends_guest]


def trial(case: Case) -> Record:
    """The record of one trial."""
    settings = dataclasses.replace(Settings.from_environment(), deadline_s=DEADLINE_S)
    (made,) = NativeRunner(settings).run([case], lambda record: None)
    assert made.survivors == ()
    return made


@pytest.mark.parametrize("scenario", ON_FUSE)
@pytest.mark.parametrize("shape", [Shape(), Shape(vcpus=4), Shape(memory_mib=4)], ids=str)
def test_stop_is_not_answered_until_the_file_system_is(
    scenario: ScenarioName, shape: Shape
) -> None:
    made = trial(Case(scenario, RequestName.STOP, shape))
    assert made.outcome is Outcome.ASLEEP, made.reason
    assert made.store is not None
    assert made.store.startswith("FUSE")
    blocking = made.evidence.blocking
    assert blocking is not None
    assert blocking.state == "D"
    assert blocking.signals == ("SIGUSR1",)
    assert {each.entry for each in made.evidence.vcpus} == {Entry.GUP}
    waits = {each.waits_for for each in made.evidence.vcpus}
    assert waits <= {WaitsFor.FUSE, WaitsFor.PAGE_CACHE}
    if scenario is ScenarioName.FUSE_SYNC:
        assert waits == {WaitsFor.FUSE}
    assert made.recovery is not None
    assert made.recovery.memory == "whole"
    assert made.recovery.completed_ns is None
    assert made.recovery.answered_ns is not None


def test_sigkill_is_answered_while_the_file_system_still_takes_writes() -> None:
    assert trial(Case(ScenarioName.FUSE_HOLD, RequestName.SIGKILL)).outcome is Outcome.RETURNED


def test_sigkill_waits_for_writes_to_a_server_that_is_stopped() -> None:
    made = trial(Case(ScenarioName.FUSE_STOPPED, RequestName.SIGKILL))
    assert made.outcome is Outcome.ASLEEP
    blocking = made.evidence.blocking
    assert blocking is not None
    assert (blocking.state, blocking.waits_for) == ("D", WaitsFor.FUSE)


def test_sigkill_waits_for_a_read_that_the_server_has_taken() -> None:
    made = trial(Case(ScenarioName.FUSE_SYNC, RequestName.SIGKILL))
    assert made.outcome is Outcome.ASLEEP
    assert made.evidence.blocking is not None
    assert made.evidence.blocking.signals == ("SIGKILL",)
    assert "request_wait_answer" in made.evidence.blocking.stack


@pytest.mark.parametrize("request_", [each for each in SURVIVED if each is not RequestName.STOP])
def test_memory_is_whole_after_every_request_that_the_guest_survives(
    request_: RequestName,
) -> None:
    made = trial(Case(ScenarioName.FUSE_HOLD, request_))
    assert made.outcome in SCORED, made.reason
    assert made.recovery is not None
    assert made.recovery.memory == "whole", made.recovery.failure


def test_the_runtime_folder_may_be_behind_a_symbolic_link(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An absolute link would lead out of the server's mount namespace."""
    (tmp_path / "link").symlink_to(runtime.parent)
    monkeypatch.setenv("KICKBENCH_RUNTIME", str(tmp_path / "link" / runtime.name))
    made = trial(Case(ScenarioName.FUSE_HOLD, RequestName.STOP))
    assert made.outcome is Outcome.ASLEEP, made.reason


def test_a_second_request_follows_one_that_hangs() -> None:
    case = Case(ScenarioName.FUSE_HOLD, RequestName.STOP, then=RequestName.SIGKILL)
    made = trial(case)
    assert made.outcome is Outcome.ASLEEP
    assert made.then is not None
    assert made.then.outcome is Outcome.RETURNED


STAGES = ("guest-up", "outage", "proof", "request", "evidence", "recovery", "release")


@pytest.mark.parametrize("scenario", ON_FUSE)
@pytest.mark.parametrize("stage", STAGES)
def test_after_a_kill_in_any_stage_clean_leaves_nothing(
    runtime: Path, scenario: ScenarioName, stage: str
) -> None:
    done = run_driver("driver.py", scenario, stage, "killed")
    assert done.returncode == -9, done.stderr
    assert leftovers.end(runtime).folders
    assert not all_that_is_left(runtime)


@pytest.mark.parametrize("scenario", ON_FUSE)
@pytest.mark.parametrize("stage", ["guest-up", "proof", "request"])
def test_a_signal_in_a_stage_ends_the_run_in_order(
    runtime: Path, scenario: ScenarioName, stage: str
) -> None:
    done = run_driver("driver.py", scenario, stage, "interrupted")
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert not all_that_is_left(runtime)


@pytest.mark.parametrize("stage", STAGES[:-2])
def test_a_server_that_dies_makes_the_trial_lost(runtime: Path, stage: str) -> None:
    done = run_driver("driver.py", "fuse-hold", stage, "killed-store")
    assert done.returncode == 4, done.stderr + done.stdout
    assert "The FUSE server was ended by SIGKILL." in done.stdout
    assert not all_that_is_left(runtime)


@pytest.mark.parametrize(
    "arguments, error",
    [
        (["--manager", "libvirt"], NotOffered),
        (["--backing", "memfd"], BadShape),
        (["--preempt"], BadShape),
        (["--image", "linux"], BadShape),
    ],
    ids=str,
)
def test_what_a_storage_scenario_cannot_have_is_refused(
    kickbench: Command, arguments: list[str], error: type[KickbenchError]
) -> None:
    done = kickbench("trial", "--scenario", "fuse-hold", "--request", "stop", *arguments)
    assert done.returncode == error.exit_status, done.stderr
    assert done.stderr.count("\n") == 1
