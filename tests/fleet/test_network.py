# SPDX-License-Identifier: BSD-3-Clause
"""Hosts that are cut off from the network, or stand still, for a while."""

from __future__ import annotations

import time

from bench_lib.fleet.status import HostState
from tests.fleet.conftest import NAMES
from tests.fleet.fleet import Fleet
from tests.fleet.test_kills import all_work, assert_complete, plan

SHORT_CUT_S = 5.0
"""Seconds that a connection has to survive."""


def test_a_cut_of_five_seconds_is_survived(fleet: Fleet) -> None:
    for name in NAMES:
        fleet.members[name].behave("hold")
    client = fleet.campaign(*plan("short-cut", *NAMES))
    fleet.until("all hosts work", all_work)
    red = fleet.members["red"]
    assert red.worker is not None
    task = red.host.processes()
    red.host.unplug()
    time.sleep(SHORT_CUT_S)
    red.host.plug()
    for name in NAMES:
        fleet.members[name].behave("")
    assert client.wait() == 0, client.output()
    assert_complete(fleet, *NAMES)
    # The worker and the boot that it was making are the same.
    assert red.worker.pid in task
    assert "red has gone" not in _last_campaign(fleet)


def _last_campaign(fleet: Fleet) -> str:
    """What the coordinator has reported since the last campaign began."""
    return fleet.said.rpartition(" runs: ")[2]


def test_a_host_that_is_cut_off_for_long_is_away_and_makes_its_boot_again(fleet: Fleet) -> None:
    red = fleet.members["red"]
    red.behave("hold")
    client = fleet.campaign(*plan("long-cut", *NAMES))
    fleet.until_state("red", HostState.WORKING)
    red.host.unplug()
    fleet.until_state("red", HostState.AWAY)
    red.host.plug()
    red.behave("")
    if red.worker is not None and not red.worker.runs:
        fleet.join(red)  # as systemd does
    assert client.wait() == 0, client.output()
    assert "red has gone" in _last_campaign(fleet)
    assert_complete(fleet, *NAMES)


def test_a_host_that_stands_still_for_a_moment_goes_on(fleet: Fleet) -> None:
    red = fleet.members["red"]
    red.behave("hold")
    client = fleet.campaign(*plan("frozen", "red"))
    fleet.until_state("red", HostState.WORKING)
    red.host.freeze()
    time.sleep(SHORT_CUT_S)
    red.host.thaw()
    red.behave("")
    assert client.wait() == 0, client.output()
    assert_complete(fleet, "red")
