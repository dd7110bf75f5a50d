# SPDX-License-Identifier: BSD-3-Clause
"""All benchmarks together: each declares one request, and no request is missing."""

import importlib

import pytest

from bench_lib.asv_bridge import suite
from bench_lib.record import Family, RequestName, ScenarioName
from bench_lib.settings import Settings
from tests.conftest import CHECKOUT

MODULES = sorted(
    path.stem
    for path in (CHECKOUT / "benchmarks").glob("v*_*.py")
    if not path.stem.endswith(("_at_switch", "_stall"))
)


def _suite(name: str) -> type[suite.RequestSuite]:
    module = importlib.import_module(f"benchmarks.{name}")
    (found,) = (
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, suite.RequestSuite)
    )
    return found


def test_every_request_is_measured_once_by_asv() -> None:
    assert sorted(_suite(name).request for name in MODULES) == sorted(RequestName)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_named_after_its_request(name: str) -> None:
    request = _suite(name).request.replace("-", "_")
    assert name == (request if request.startswith("virt_") else f"vm_{request}")


def test_stop_is_measured_at_the_switch_as_well() -> None:
    made = _suite("vm_stop_at_switch")()
    cases = [made.case(value) for value in suite.SWITCHES]
    assert {each.request for each in cases} == {RequestName.STOP}
    assert len(set(cases)) == 9


def test_stop_is_measured_while_storage_does_not_answer_as_well() -> None:
    made = _suite("vm_stop_stall")()
    cases = [made.case(value) for value in suite.STALLS]
    assert {each.request for each in cases} == {RequestName.STOP}
    assert [each.scenario for each in cases] == [
        each for each in ScenarioName if each.family is Family.STORAGE
    ]


@pytest.mark.parametrize("which, count", [("core", 1), ("full", len(suite.STALLS))])
def test_the_set_chooses_the_stalls(which: str, count: int) -> None:
    settings = Settings.from_environment({"HOME": "/", "KICKBENCH_SET": which})
    assert len(suite.stalls(settings)) == count


@pytest.mark.parametrize(
    "which, count",
    [("core", 3), ("full", len([each for each in ScenarioName if each.value not in suite.STALLS]))],
)
def test_the_set_chooses_the_scenarios(which: str, count: int) -> None:
    settings = Settings.from_environment({"HOME": "/", "KICKBENCH_SET": which})
    assert len(suite.scenarios(settings)) == count
