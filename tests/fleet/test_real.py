# SPDX-License-Identifier: BSD-3-Clause
"""Simulated hosts that really make trials, in labs and under the booted kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench_lib.errors import HostError
from bench_lib.fleet.status import HostState
from bench_lib.record import Outcome, Record
from tests.fleet.fleet import Fleet, Member

LAB_S = 600.0
"""Seconds that a campaign with one lab may take. It takes half a minute on an idle machine."""


@pytest.fixture
def real(started_fleet: Fleet) -> Iterator[tuple[Fleet, Member, Member]]:
    """Two hosts that wait for work, and make real trials."""
    fleet = started_fleet
    names = ("iron", "steel")
    members = [fleet.members.get(each) or fleet.add(each, pretends=False) for each in names]
    for name, member in zip(names, members, strict=True):
        if member.worker is None or not member.worker.runs:
            fleet.join(member)
        fleet.until_state(name, HostState.READY)
    yield fleet, members[0], members[1]
    for member in members:
        # Nothing is left of a boot but the worker.
        assert member.worker is not None
        assert member.host.processes() == [member.worker.pid]


def _of_last_campaign(fleet: Fleet) -> list[Record]:
    status = fleet.status()
    assert status is not None
    campaign = status.campaigns[-1].id
    return [each for each in fleet.records if each.slot and each.slot.campaign == campaign]


def test_a_host_boots_a_lab(real: tuple[Fleet, Member, Member]) -> None:
    fleet, iron, _ = real
    client = fleet.campaign(
        "debian/6.12", "--boots", "1", "--scenario", "idle", "-n", "1", "--host", "iron"
    )
    assert client.wait(LAB_S) == 0, client.output()
    (made,) = _of_last_campaign(fleet)
    assert (made.host.kind, made.host.machine) == ("lab", "iron")
    assert made.kernel.release.startswith("6.12.")
    status = fleet.status()
    assert status is not None
    ids = {each.facts.name: each.facts.machine_id for each in status.hosts}
    assert made.machine_id == ids["iron"]
    assert len(set(ids.values())) == len(ids)
    assert iron.worker is not None


def _native(name: str, *hosts: str) -> list[str]:
    bound = [word for each in hosts for word in ("--host", each)]
    return ["booted", "--work", "host", "--scenario", "blackhole", "-n", "2", "--name", name,
            "--patience", "1", *bound]  # fmt: skip


@pytest.mark.usefixtures("kvm")
def test_hosts_make_trials_under_the_kernel_that_they_have_booted(
    real: tuple[Fleet, Member, Member],
) -> None:
    fleet, _, _ = real
    client = fleet.campaign(*_native("native", "iron", "steel"))
    assert client.wait(LAB_S) == 0, client.output()
    made = _of_last_campaign(fleet)
    assert sorted(each.host.machine for each in made) == ["iron", "iron", "steel", "steel"]
    assert {each.outcome for each in made} == {Outcome.RETURNED}
    # Each host has a boot id of its own.
    assert len({(each.host.machine, each.boot_id) for each in made}) == 2
    assert all(each.worker_cpu is not None for each in made)


@pytest.fixture
def fresh(real: tuple[Fleet, Member, Member]) -> tuple[Fleet, Member]:
    """A host whose /run has no file yet that could be overwritten, and which has not joined."""
    fleet, iron, _ = real
    iron.host.off()
    fleet.until_state("iron", HostState.AWAY)
    fleet.on(iron.host)
    return fleet, iron


def test_a_host_that_comes_back_with_a_full_disk_joins_when_there_is_room(
    fresh: tuple[Fleet, Member],
) -> None:
    fleet, iron = fresh
    iron.host.fill_disk()
    worker = fleet.join(iron)
    assert worker.wait() == HostError.exit_status
    assert "No space left on device" in worker.output()
    iron.host.free_disk()
    fleet.join(iron)
    fleet.until_state("iron", HostState.READY)


@pytest.mark.usefixtures("kvm")
def test_a_host_whose_runtime_folder_fills_up_goes_on(
    fresh: tuple[Fleet, Member],
) -> None:
    fleet, iron = fresh
    fleet.join(iron)
    fleet.until_state("iron", HostState.READY)
    iron.host.fill_disk()
    client = fleet.campaign(*_native("full", "iron", "steel"))
    assert client.wait(LAB_S) == 0, client.output()
    iron.host.free_disk()
    assert {each.outcome for each in _of_last_campaign(fleet)} == {Outcome.RETURNED}
