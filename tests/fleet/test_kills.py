# SPDX-License-Identifier: BSD-3-Clause
"""Workers, the coordinator and clients are killed: no boot is missing, and none is made twice."""

from __future__ import annotations

import pytest

from bench_lib.fleet.status import CampaignState, FleetStatus, HostState
from tests.fleet.conftest import KERNELS, NAMES
from tests.fleet.fleet import Fleet, boots

BOOTS = 2

LAB = ("--work", "lab", "--scenario", "idle", "--request", "stop", "-n", "2")


def plan(name: str, *hosts: str, kernels: tuple[str, ...] = KERNELS) -> list[str]:
    """The arguments of a campaign of short boots on some hosts."""
    bound = [word for each in hosts for word in ("--host", each)]
    return [*kernels, *LAB, "--boots", str(BOOTS), "--name", name, *bound]


def assert_complete(fleet: Fleet, *hosts: str, each: int = BOOTS * len(KERNELS)) -> None:
    """Check that these hosts have made all boots of the last campaign, each once and whole."""
    status = fleet.status()
    assert status is not None
    campaign = status.campaigns[-1].id
    found = boots([one for one in fleet.records if one.slot and one.slot.campaign == campaign])
    assert sorted((host, number) for host, number, _ in found) == sorted(
        (host, number) for host in hosts for number in range(each)
    )
    # Two trials, as the campaign asks for.
    assert set(found.values()) == {2}


def all_work(status: FleetStatus) -> bool:
    """Whether all hosts that most tests use are making a boot."""
    return [
        each.state for each in status.hosts if each.facts.name in NAMES
    ] == [HostState.WORKING] * len(NAMES)  # fmt: skip


@pytest.fixture
def held(fleet: Fleet) -> Fleet:
    """A fleet whose hosts do not finish a boot until they are told so."""
    for name in NAMES:
        fleet.members[name].behave("hold")
    return fleet


def _release(fleet: Fleet) -> None:
    for name in NAMES:
        fleet.members[name].behave("")


def test_a_worker_that_is_killed_makes_its_boot_again(held: Fleet) -> None:
    client = held.campaign(*plan("worker", *NAMES))
    held.until("all hosts work", all_work)
    red = held.members["red"]
    assert red.worker is not None
    red.worker.kill()
    held.until_state("red", HostState.AWAY)
    # What the worker had started ends without it.
    while red.host.processes():
        pass
    held.join(red)
    held.until("all hosts work", all_work)
    _release(held)
    assert client.wait() == 0, client.output()
    assert_complete(held, *NAMES)


def test_a_coordinator_that_is_killed_goes_on_when_it_is_started_again(held: Fleet) -> None:
    client = held.campaign(*plan("coordinator", *NAMES))
    held.until("all hosts work", all_work)
    held.kill_coordinator()
    held.start_coordinator()
    for name in NAMES:
        member = held.members[name]
        if member.worker is not None and not member.worker.runs:
            held.join(member)  # as systemd does
    held.until("all hosts work", all_work)
    _release(held)
    assert held.until_ended() is CampaignState.COMPLETE
    client.wait()
    assert_complete(held, *NAMES)


def test_a_client_that_is_killed_changes_nothing_and_another_one_can_follow(held: Fleet) -> None:
    client = held.campaign(*plan("client", *NAMES))
    held.until("all hosts work", all_work)
    client.kill()
    again = held.campaign(*plan("client", *NAMES))
    _release(held)
    assert again.wait() == 0, again.output()
    status = held.status()
    assert status is not None
    assert len({each.id for each in status.campaigns}) == len(status.campaigns)
    assert_complete(held, *NAMES)


def test_everything_is_killed_at_once(held: Fleet) -> None:
    client = held.campaign(*plan("everything", *NAMES))
    held.until("all hosts work", all_work)
    for name in NAMES:
        held.members[name].host.off()
    held.kill_coordinator()
    client.kill()
    held.start_coordinator()
    for name in NAMES:
        held.members[name].host.on()
        held.join(held.members[name])
    assert held.until_ended() is CampaignState.COMPLETE
    assert_complete(held, *NAMES)
