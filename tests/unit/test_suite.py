# SPDX-License-Identifier: BSD-3-Clause
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench_lib.asv_bridge import selection, suite
from bench_lib.errors import HostError, TrialLost
from bench_lib.record import Family, Outcome, Record, RequestName, ScenarioName
from bench_lib.settings import Settings
from bench_lib.trial import preflight
from bench_lib.trial.batch import NativeRunner
from bench_lib.trial.case import CORE_SCENARIOS, Case
from tests.make import record


class Suite(suite.RequestSuite):
    request = RequestName.STOP
    params: Sequence[str] = ("blackhole",)


MIGRATIONS = [each for each in ScenarioName if each.family is not Family.STORAGE]

RETURNED, HUNG = record(latency_ms=2.0), record(Outcome.ASLEEP)
LOST = record(Outcome.LOST, reason="The guest was never stuck.")


def _of(*records: Record) -> dict[str, list[Record]]:
    return {"blackhole": list(records)}


def test_a_hang_is_stored_at_its_deadline_and_counted() -> None:
    records = _of(RETURNED, HUNG, HUNG)
    assert Suite().track_latency(records, "blackhole") == {
        "samples": [0.002, 5.0, 5.0],
        "number": 1,
    }
    assert Suite().track_hung(records, "blackhole") == 2
    assert Suite().track_lost(records, "blackhole") == 0


def test_a_lost_trial_is_counted_and_never_scored() -> None:
    records = _of(RETURNED, LOST, RETURNED)
    latency = Suite().track_latency(records, "blackhole")
    assert latency == {"samples": [0.002, 0.002], "number": 1}
    assert Suite().track_hung(records, "blackhole") == 0
    assert Suite().track_lost(records, "blackhole") == 1


def test_refusals_are_counted_apart_and_are_not_samples() -> None:
    refused = record(Outcome.REFUSED, 30.0)
    records = _of(RETURNED, refused, refused)
    assert Suite().track_latency(records, "blackhole") == 0.002
    assert Suite().track_refused(records, "blackhole") == 2
    assert Suite().track_lost(records, "blackhole") == 0
    assert Suite().track_hung(records, "blackhole") == 0
    # NaN means in asv that a number does not apply; the other numbers show why.
    assert math.isnan(Suite().track_latency(_of(refused), "blackhole"))  # type: ignore[arg-type]


def test_a_death_is_stored_like_a_hang() -> None:
    records = _of(RETURNED, record(Outcome.DIED), record(Outcome.UNANSWERED))
    latency = Suite().track_latency(records, "blackhole")
    assert latency == {"samples": [0.002, 5.0, 5.0], "number": 1}
    assert Suite().track_hung(records, "blackhole") == 2
    assert Suite().track_lost(records, "blackhole") == 0


def test_requests_that_are_all_refused_are_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = record(Outcome.REFUSED, 30.0)
    monkeypatch.setattr(NativeRunner, "run", lambda self, cases, on_record: [refused, refused])
    assert Suite().measure() == {"blackhole": [refused, refused]}


def test_one_sample_is_a_number_without_an_interval() -> None:
    latency = Suite().track_latency(_of(HUNG), "blackhole")
    assert isinstance(latency, float)
    assert math.isfinite(latency)


def test_if_all_trials_are_lost_the_benchmark_fails_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    word = tmp_path / "failure"
    monkeypatch.setenv("KICKBENCH_FAILURE", str(word))
    monkeypatch.setattr(NativeRunner, "run", lambda self, cases, on_record: [LOST, LOST])
    with pytest.raises(TrialLost):
        Suite().measure()
    assert word.read_text() == (
        "4 No trial of blackhole gave a measurement: The guest was never stuck."
    )


def test_trials_are_interleaved_over_scenarios_and_as_many_as_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Case] = []

    def run(self: NativeRunner, cases: list[Case], on_record: object) -> list[Record]:
        seen.extend(cases)
        return [record(scenario=case.scenario) for case in cases]

    class Two(Suite):
        params = ("idle", "paused")

    monkeypatch.setenv("KICKBENCH_TRIALS", "3")
    monkeypatch.setattr(NativeRunner, "run", run)
    records = Two().measure()
    assert [case.scenario for case in seen] == [ScenarioName.IDLE, ScenarioName.PAUSED] * 3
    assert {name: len(group) for name, group in records.items()} == {"idle": 3, "paused": 3}


def test_each_guest_has_its_own_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: NativeRunner, cases: list[Case], on_record: object) -> list[Record]:
        assert {case.scenario for case in cases} == {ScenarioName.BLACKHOLE}
        return [dataclasses.replace(record(), shape=case.shape) for case in cases]

    class Guests(suite.GuestSuite):
        request = RequestName.STOP
        params = tuple(suite.GUESTS)

    monkeypatch.setenv("KICKBENCH_TRIALS", "2")
    monkeypatch.setenv("KICKBENCH_SET", "full")
    monkeypatch.setattr(NativeRunner, "run", run)
    records = Guests().measure()
    assert {value: len(group) for value, group in records.items()} == dict.fromkeys(suite.GUESTS, 2)
    assert [each.shape.vcpus for each in records["8 vCPUs"]] == [8, 8]


def test_a_request_that_this_host_cannot_make_is_left_out(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Attach(suite.RequestSuite):
        request = RequestName.GDB_ATTACH

    monkeypatch.setenv("PATH", str(history))
    assert Attach().measure() == {}
    with pytest.raises(NotImplementedError, match="gdb is not installed"):
        Attach().setup({}, "blackhole")


class Stalls(suite.StallSuite):
    request = RequestName.STOP
    params = suite.STALLS


@pytest.fixture
def full(history: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KICKBENCH_SET", "full")
    monkeypatch.setenv("KICKBENCH_TRIALS", "1")
    monkeypatch.setattr(preflight, "lacking", lambda request, manager, lab: None)
    monkeypatch.setattr(preflight, "not_staged", lambda scenario, lab: None)


@pytest.mark.usefixtures("full")
def test_a_scenario_that_this_host_cannot_stage_is_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def not_staged(scenario: ScenarioName, *, lab: bool) -> HostError | None:
        return HostError("It is not there.") if scenario is ScenarioName.FUSE_SYNC else None

    def run(self: NativeRunner, cases: list[Case], on_record: object) -> list[Record]:
        return [record(scenario=case.scenario) for case in cases]

    monkeypatch.setattr(preflight, "not_staged", not_staged)
    monkeypatch.setattr(NativeRunner, "run", run)
    records = Stalls().measure()
    assert set(records) == set(suite.STALLS) - {"fuse-sync"}
    Stalls().setup(records, "fuse-hold")
    with pytest.raises(NotImplementedError, match=r"It is not there\."):
        Stalls().setup(records, "fuse-sync")


@pytest.mark.usefixtures("full")
def test_a_scenario_that_the_lab_cannot_stage_does_not_fail_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(self: NativeRunner, cases: list[Case], on_record: object) -> list[Record]:
        untried = dataclasses.replace(record(Outcome.LOST, reason="No module."), tried=False)
        return [
            dataclasses.replace(
                untried if case.scenario is ScenarioName.FUSE_SYNC else record(),
                scenario=case.scenario,
            )
            for case in cases
        ]

    monkeypatch.setattr(NativeRunner, "run", run)
    records = Stalls().measure()
    Stalls().setup(records, "fuse-hold")
    with pytest.raises(NotImplementedError, match=r"No module\."):
        Stalls().setup(records, "fuse-sync")


@pytest.mark.usefixtures("full")
def test_on_a_host_that_can_stage_no_scenario_nothing_is_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preflight, "not_staged", lambda scenario, lab: HostError("No FUSE."))
    monkeypatch.setattr(NativeRunner, "run", lambda self, cases, on_record: pytest.fail("it ran"))
    assert Stalls().measure() == {}


@pytest.mark.parametrize(
    ("which", "count"), [("core", len(CORE_SCENARIOS)), ("full", len(MIGRATIONS))]
)
def test_of_all_listed_values_only_those_of_the_set_are_measured(
    history: Path, monkeypatch: pytest.MonkeyPatch, which: str, count: int
) -> None:
    """All are listed so that asv keeps its results of the others."""
    monkeypatch.setenv("KICKBENCH_LISTED", "full")
    monkeypatch.setenv("KICKBENCH_SET", which)
    monkeypatch.setenv("KICKBENCH_TRIALS", "1")
    seen: list[Case] = []

    def run(self: NativeRunner, cases: list[Case], on_record: object) -> list[Record]:
        seen.extend(cases)
        return [record(scenario=case.scenario) for case in cases]

    class All(Suite):
        params = suite.scenarios(Settings.from_environment())

    assert All.params == tuple(MIGRATIONS)
    monkeypatch.setattr(NativeRunner, "run", run)
    assert len(All().measure()) == len(seen) == count


def test_values_that_are_not_of_the_set_are_all_measured(history: Path) -> None:
    settings = Settings.from_environment()
    assert suite.measured(("postcopy", "degraded"), settings) == ("postcopy", "degraded")
    assert suite.measured(tuple(suite.GUESTS), settings) == suite.CORE_GUESTS
    assert suite.measured(suite.STALLS, settings) == ("fuse-hold",)


@pytest.mark.parametrize(
    ("values", "full"),
    [
        (["idle", "blackhole"], False),
        (["idle", "degraded"], True),
        (["1 vCPU", "memfd"], True),
        (["frozen-source, gup", "frozen-source, pv-kvmclock"], False),
        (["frozen-source, gup", "dead-source, gup"], True),
        (["fuse-hold"], False),
        (["fuse-hold", "fuse-sync"], True),
    ],
)
def test_a_history_of_the_full_set_is_recognized_by_its_results(
    tmp_path: Path, values: list[str], full: bool
) -> None:
    assert not selection.holds_full(tmp_path / "not there yet")
    (tmp_path / "host").mkdir()
    kept = {"results": {"vm_stop": [[0.1, 0.2], [[repr(each) for each in values]]]}}
    (tmp_path / "host" / "kernel.json").write_text(json.dumps(kept))
    code = {"code": "params = (\"'degraded'\",)"}
    (tmp_path / "benchmarks.json").write_text(json.dumps(code))
    assert selection.holds_full(tmp_path) is full
