# SPDX-License-Identifier: BSD-3-Clause
"""What each case needs of a host."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import pytest

from bench_lib.errors import (
    FuseUnavailable,
    HostError,
    MemoryMissing,
    ProgramMissing,
    PtraceForbidden,
)
from bench_lib.host import needs, setup
from bench_lib.host.need import Need
from bench_lib.record import Backing, Family, ManagerName, RequestName, ScenarioName, Shape
from bench_lib.settings import Settings
from bench_lib.trial import preflight
from bench_lib.trial.case import Case

SETTINGS = Settings.from_environment({"HOME": "/"})


def _lacks(monkeypatch: pytest.MonkeyPatch, lacks: Collection[Need], error: HostError) -> None:
    """Make a host that lacks these needs and has all others."""

    def check(need: Need, settings: Settings) -> str:
        if need in lacks:
            raise error
        return "there"

    monkeypatch.setattr(needs, "check", check)


LINKS = {Need.NETWORK, Need.NAMESPACES, Need.USERFAULTFD}


def test_idle_needs_no_link_and_no_userfaultfd(monkeypatch: pytest.MonkeyPatch) -> None:
    _lacks(monkeypatch, LINKS, ProgramMissing("tc is not installed."))
    preflight.check(SETTINGS, [Case(ScenarioName.IDLE, RequestName.STOP)])


@pytest.mark.parametrize(
    "scenario", [each for each in ScenarioName if each.family is Family.MIGRATION]
)
@pytest.mark.parametrize("need", sorted(LINKS))
def test_every_migration_needs_a_link(
    monkeypatch: pytest.MonkeyPatch, scenario: ScenarioName, need: Need
) -> None:
    _lacks(monkeypatch, {need}, ProgramMissing("It is not there."))
    cases = [Case(ScenarioName.IDLE, RequestName.STOP), Case(scenario, RequestName.STOP)]
    with pytest.raises(ProgramMissing):
        preflight.check(SETTINGS, cases)


@pytest.mark.parametrize("scenario", [each for each in ScenarioName if each.startswith("fuse-")])
def test_a_file_on_fuse_needs_a_server_and_no_link(
    monkeypatch: pytest.MonkeyPatch, scenario: ScenarioName
) -> None:
    _lacks(monkeypatch, {Need.NETWORK, Need.USERFAULTFD}, ProgramMissing("tc is not installed."))
    preflight.check(SETTINGS, [Case(scenario, RequestName.STOP)])
    _lacks(monkeypatch, {Need.FUSE}, FuseUnavailable("/dev/fuse cannot be opened."))
    with pytest.raises(FuseUnavailable):
        preflight.check(SETTINGS, [Case(scenario, RequestName.STOP)])


@pytest.mark.parametrize("lab", [None, ("tcg", "somewhere")])
def test_cases_that_a_host_lacks_something_for_do_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, lab: tuple[str, str] | None
) -> None:
    _lacks(monkeypatch, {Need.FUSE}, ProgramMissing("There is no FUSE."))
    settings = dataclasses.replace(SETTINGS, lab=lab)
    stop = RequestName.STOP
    idle, blackhole, fuse = (
        Case(each, stop)
        for each in (ScenarioName.IDLE, ScenarioName.BLACKHOLE, ScenarioName.FUSE_HOLD)
    )
    lacking = {fuse: "There is no FUSE."}
    assert preflight.untried(settings, [idle, blackhole, fuse, fuse]) == lacking
    # Outside a lab a host that can try nothing is refused.
    assert preflight.untried(settings, [fuse]) == ({} if lab is None else lacking)


def test_a_host_that_lacks_what_every_migration_needs_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _lacks(monkeypatch, LINKS, ProgramMissing("tc is not installed."))
    cases = [Case(each, RequestName.STOP) for each in (ScenarioName.IDLE, ScenarioName.BLACKHOLE)]
    assert preflight.untried(SETTINGS, cases) == {}


def test_without_cases_the_needs_of_a_migration_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _lacks(monkeypatch, {Need.NETWORK}, ProgramMissing("tc is not installed."))
    with pytest.raises(ProgramMissing):
        preflight.check(SETTINGS)


@pytest.mark.parametrize(
    "request_, need",
    [
        (RequestName.GDB_ATTACH, Need.GDB),
        (RequestName.GDB_ATTACH, Need.PTRACE_SIBLING),
        (RequestName.PTRACE_INTERRUPT, Need.PTRACE),
        (RequestName.PS, Need.PS),
        (RequestName.CGROUP_FREEZE, Need.FREEZER),
        (RequestName.CORE_DUMP, Need.CORE_DUMPS),
    ],
)
def test_some_requests_need_their_programs_and_rights(
    monkeypatch: pytest.MonkeyPatch, request_: RequestName, need: Need
) -> None:
    _lacks(monkeypatch, {need}, HostError("It is not there."))
    with pytest.raises(HostError):
        preflight.check(SETTINGS, [Case(ScenarioName.IDLE, request_)])
    preflight.check(SETTINGS, [Case(ScenarioName.IDLE, RequestName.STOP)])


def test_a_lab_needs_the_programs_of_its_host_but_not_its_rights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _lacks(monkeypatch, {Need.PTRACE_SIBLING}, PtraceForbidden("No process may be traced."))
    assert (
        preflight.lacking(RequestName.GDB_ATTACH, ManagerName.QEMU, lab=False)
        == "No process may be traced."
    )
    assert preflight.lacking(RequestName.GDB_ATTACH, ManagerName.QEMU, lab=True) is None
    _lacks(monkeypatch, {Need.GDB}, ProgramMissing("gdb is not installed."))
    assert (
        preflight.lacking(RequestName.GDB_ATTACH, ManagerName.QEMU, lab=True)
        == "gdb is not installed."
    )


BIG = Shape(memory_mib=4096)


@pytest.mark.parametrize(
    ("scenario", "shape", "free_mib", "error"),
    [
        (ScenarioName.IDLE, BIG, 4096 + 127, "The guest needs 4096 MiB .* has 4223 MiB available"),
        (ScenarioName.IDLE, BIG, 4096 + 128, None),
        (ScenarioName.BLACKHOLE, BIG, 2 * 4096, "A trial needs 2 times 4096 MiB"),
        (ScenarioName.BLACKHOLE, BIG, 2 * 4096 + 128, None),
        (ScenarioName.BLACKHOLE, BIG, None, None),
    ],
)
def test_guests_that_do_not_fit_into_the_memory_of_the_host_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    scenario: ScenarioName,
    shape: Shape,
    free_mib: int | None,
    error: str | None,
) -> None:
    _lacks(monkeypatch, (), HostError("Nothing is missing."))
    monkeypatch.setattr(setup, "memory_mib", lambda name: free_mib)
    small = Case(ScenarioName.BLACKHOLE, RequestName.STOP)
    cases = [small, Case(scenario, RequestName.STOP, shape), small]
    if error is None:
        preflight.check(SETTINGS, cases)
        return
    with pytest.raises(MemoryMissing, match=error):
        preflight.check(SETTINGS, cases)


def test_guests_on_huge_pages_need_no_other_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    _lacks(monkeypatch, (), HostError("Nothing is missing."))
    monkeypatch.setattr(setup, "memory_mib", lambda name: 1024)
    monkeypatch.setattr(setup, "free_huge_pages", lambda: 2048)
    huge = Shape(memory_mib=2048, backing=Backing.HUGETLB)
    preflight.check(SETTINGS, [Case(ScenarioName.BLACKHOLE, RequestName.STOP, huge)])


def test_needs_are_checked_in_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Need] = []

    def check(need: Need, settings: Settings) -> str:
        asked.append(need)
        return "there"

    monkeypatch.setattr(needs, "check", check)
    case = Case(ScenarioName.BLACKHOLE, RequestName.GDB_ATTACH)
    preflight.check(SETTINGS, [case])
    wanted = preflight.needs_of(case) | preflight.ALWAYS
    assert wanted > {Need.NETWORK, Need.GDB}
    assert asked == [need for need in Need if need in wanted]
