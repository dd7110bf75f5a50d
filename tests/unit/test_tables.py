# SPDX-License-Identifier: BSD-3-Clause
"""The tables of scenarios and requests: no name lacks a description or a class."""

from bench_lib.record import RUNS, Family, RequestName, ScenarioName
from bench_lib.trial.requests.description import REQUESTS
from bench_lib.trial.requests.table import MAKERS
from bench_lib.trial.scenarios.description import SCENARIOS, Stuck
from bench_lib.trial.scenarios.table import STAGERS


def test_every_scenario_is_described_and_staged() -> None:
    assert list(SCENARIOS) == list(ScenarioName)
    assert list(STAGERS) == list(ScenarioName)


def test_the_scenarios_whose_guests_run_are_those_that_prove_it() -> None:
    assert {name for name, each in SCENARIOS.items() if each.proves is Stuck.RUNS} == RUNS


def test_the_scenarios_of_the_family_migration_are_those_with_two_guests() -> None:
    assert [name for name in ScenarioName if name.family is Family.MIGRATION] == [
        name for name, each in SCENARIOS.items() if each.guests == 2
    ]


def test_every_request_is_described_and_made() -> None:
    assert list(REQUESTS) == list(RequestName)
    assert list(MAKERS) == list(RequestName)
