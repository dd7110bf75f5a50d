# SPDX-License-Identifier: BSD-3-Clause
"""Measure what a fleet adds to the time of a boot.

    .venv/bin/python tools/fleet_overhead.py [N]

A simulated host (tests/fleet) joins a real coordinator over TLS. Its trials are pretended and take
no time, so what is left is what starting their program takes, and what the fleet adds. The host
makes N boots in each of two ways, in turns: as campaigns of one boot, from the user's request until
the user is told that it is recorded, and by the same program without a fleet. Then it makes one
campaign of N boots. The tool prints the medians, and the time per boot of that campaign.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench_lib.fleet.client import FleetClient
from bench_lib.fleet.command import Command
from bench_lib.fleet.plan import Plan
from bench_lib.fleet.status import CampaignState, HostState
from bench_lib.fleet.work import Kind, Work, to_json
from bench_lib.record import Kernel, RequestName, ScenarioName
from bench_lib.settings import CHECKOUT, Settings
from bench_lib.trial.case import Case
from tests.fleet.conftest import empty_history, host_environment
from tests.fleet.fleet import PROGRAMS, Fleet

HOST = "solo"
KERNEL = Kernel("6.12.0-1-amd64", "#1 SMP Debian (2026-01-01)")
CASES = (Case(ScenarioName.IDLE, RequestName.STOP),)

INSIDE = "--inside"
"""The option with which this program runs in the simulated host."""


def plan(name: str, boots: int) -> Plan:
    """A campaign of the host."""
    return Plan(Kind.LAB, (KERNEL,), CASES, boots, (HOST,), name=name)


async def by_fleet(fleet: FleetClient, wanted: Plan) -> float:
    """Make a campaign, and return how many seconds that took."""
    start_s = time.monotonic()
    await fleet.submit(wanted)
    seen = 0
    while True:
        news = await fleet.follow(wanted.id, seen)
        seen = news.seen
        if news.status.state is CampaignState.COMPLETE:
            return time.monotonic() - start_s
        if news.status.state is not CampaignState.RUNNING:
            sys.exit(f"The campaign is {news.status.state}: {' '.join(news.status.missing)}")


def directly() -> float:
    """Make a boot with the program that the worker starts, and return how many seconds it took."""
    given = to_json(Work(Kind.LAB, KERNEL, CASES, 60.0))
    start_s = time.monotonic()
    done = Command(["-m", "bench_lib.fleet.task"], Settings.from_environment(), {}, given).wait(60)
    if done.status != 0:
        sys.exit(f"The boot failed: {done.sentence}")
    return time.monotonic() - start_s


async def inside(address: str, count: int) -> None:
    """Measure, in the simulated host, and print the results."""
    fleet_s, direct_s = [], []
    async with FleetClient.connect(address, Settings.from_environment().certificates) as fleet:
        for number in range(count):
            one = plan(f"one-{number}", 1)
            if number % 2:
                direct_s.append(directly())
                fleet_s.append(await by_fleet(fleet, one))
            else:
                fleet_s.append(await by_fleet(fleet, one))
                direct_s.append(directly())
        steady_s = await by_fleet(fleet, plan("many", count)) / count
    by, without = (statistics.median(each) * 1000 for each in (fleet_s, direct_s))
    print(
        f"a boot by a campaign of its own: {by:.0f} ms, without a fleet: {without:.0f} ms "
        f"(medians, n = {count} each); the fleet adds {by - without:.0f} ms\n"
        f"a boot of a campaign of {count}: {steady_s * 1000:.0f} ms"
    )


def main(count: int = 50) -> None:
    """Set up a fleet of one host, and measure in it."""
    with tempfile.TemporaryDirectory(prefix="fleet-") as temporary:
        folder = Path(temporary)
        with Fleet(folder, empty_history(folder / "history"), host_environment()) as fleet:
            fleet.start_coordinator()
            member = fleet.add(HOST)
            fleet.join(member, "--labs", "1")
            fleet.until_state(HOST, HostState.READY)
            done = member.host.run(
                [PROGRAMS / "python", __file__, INSIDE, fleet.address, str(count)],
                {"PYTHONPATH": str(CHECKOUT)},
            )
    print(done.stdout + done.stderr, end="")
    sys.exit(done.returncode)


if __name__ == "__main__":
    if sys.argv[1:2] == [INSIDE]:
        asyncio.run(inside(sys.argv[2], int(sys.argv[3])))
    else:
        main(*map(int, sys.argv[1:]))
