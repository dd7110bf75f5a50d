# SPDX-License-Identifier: BSD-3-Clause
"""kickbench matrix: which scenarios it measures under which kernel."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from click.testing import CliRunner

from bench_lib.cli import kernels, main
from bench_lib.cli.matrix import MATRIX_CORE, chosen
from bench_lib.errors import HostError, ProgramMissing
from bench_lib.lab import trials
from bench_lib.record import Family, ManagerName, Record, RequestName, ScenarioName
from bench_lib.trial import batch, preflight
from bench_lib.trial.batch import NativeRunner
from bench_lib.trial.case import Case

STORAGE = [each for each in ScenarioName if each.family is Family.STORAGE]
IDLE = ScenarioName.IDLE


@pytest.mark.parametrize("which", ["core", "full"])
def test_every_scenario_of_the_family_storage_is_measured_in_every_set(which: str) -> None:
    assert chosen(which, [Family.STORAGE]) == [IDLE, *STORAGE]


def test_the_core_set_has_few_scenarios_of_the_family_migration() -> None:
    assert chosen("core", [Family.MIGRATION]) == list(MATRIX_CORE)
    assert chosen("full", [Family.MIGRATION]) == [
        each for each in ScenarioName if each not in STORAGE
    ]


def test_two_families_are_measured_together() -> None:
    assert chosen("core", [Family.MIGRATION, Family.STORAGE]) == [*MATRIX_CORE, *STORAGE]


@pytest.fixture
def native(history: object, monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """The cases that the booted kernel would be asked for."""
    found: list[Case] = []

    def run(self: NativeRunner, cases: Sequence[Case], on_record: object) -> list[Record]:
        found.extend(cases)
        return []

    monkeypatch.setattr(NativeRunner, "run", run)
    monkeypatch.setattr(preflight, "lacking", lambda request, manager, lab: None)
    monkeypatch.setattr(preflight, "not_staged", lambda scenario, lab: None)
    monkeypatch.setattr(batch, "unavailable", lambda scenarios, settings: {})
    return found


@pytest.fixture
def in_lab(native: list[Case], monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """The cases that a lab would be asked for."""
    found: list[Case] = []

    def run(self: trials.LabRunner, cases: Sequence[Case], on_record: object) -> list[Record]:
        found.extend(cases)
        return []

    monkeypatch.setattr(trials.LabRunner, "run", run)
    monkeypatch.setattr(kernels, "bootable", lambda settings, name: name)
    return found


def test_without_an_option_the_family_is_migration(native: list[Case]) -> None:
    assert CliRunner().invoke(main, ["matrix"]).exit_code == 0
    assert {each.scenario for each in native} == set(MATRIX_CORE)


def test_a_scenario_that_the_host_cannot_stage_is_left_out_natively_alone(
    native: list[Case], in_lab: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking, *others = STORAGE

    def not_staged(scenario: ScenarioName, *, lab: bool) -> HostError | None:
        return None if lab or scenario is not lacking else ProgramMissing("It is not there.")

    monkeypatch.setattr(preflight, "not_staged", not_staged)
    words = ["matrix", "--family", "storage", "--kernel", "booted", "--kernel", "debian/6.1"]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 0
    assert shown.stderr == (
        f"kickbench: {lacking} is left out under the booted kernel: It is not there.\n"
    )
    assert {each.scenario for each in native} == {IDLE, *others}
    assert {each.scenario for each in in_lab} == {IDLE, *STORAGE}


def test_a_request_that_cannot_be_made_in_a_scenario_is_left_out_there_alone(
    native: list[Case],
) -> None:
    assert CliRunner().invoke(main, ["matrix", "--family", "storage"]).exit_code == 0
    made = {(each.request, each.scenario) for each in native}
    freezes = RequestName.CGROUP_FREEZE
    assert {each for each in STORAGE if (freezes, each) not in made} == {ScenarioName.MEMORY_HIGH}
    assert (RequestName.STOP, ScenarioName.MEMORY_HIGH) in made


def test_a_request_that_needs_a_right_is_left_out_natively_alone(
    native: list[Case], in_lab: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(request: RequestName, manager: ManagerName, *, lab: bool) -> str | None:
        return None if lab or request is not RequestName.GDB_ATTACH else "It is forbidden."

    monkeypatch.setattr(preflight, "lacking", lacking)
    words = ["matrix", "--kernel", "booted", "--kernel", "debian/6.1"]
    assert CliRunner().invoke(main, words).exit_code == 0
    assert RequestName.GDB_ATTACH not in {each.request for each in native}
    assert RequestName.GDB_ATTACH in {each.request for each in in_lab}


def test_a_host_that_can_stage_none_of_the_scenarios_is_refused(
    native: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_staged(scenario: ScenarioName, *, lab: bool) -> HostError | None:
        return ProgramMissing("It is not there.") if scenario in STORAGE else None

    monkeypatch.setattr(preflight, "not_staged", not_staged)
    shown = CliRunner().invoke(main, ["matrix", "--family", "storage"])
    assert shown.exit_code == ProgramMissing.exit_status
    assert shown.output == "kickbench: It is not there.\n"
    assert not native


def test_a_family_that_does_not_exist_is_refused(native: list[Case]) -> None:
    shown = CliRunner().invoke(main, ["matrix", "--family", "none"])
    assert shown.exit_code == 2
    assert "'migration', 'storage'" in shown.output
    assert not native
