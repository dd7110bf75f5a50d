# SPDX-License-Identifier: BSD-3-Clause
"""Trials on a host of the fleet, as any other runner makes them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from bench_lib import interrupt
from bench_lib.errors import CampaignIncomplete, FleetUnreachable, Interrupted, UsageError
from bench_lib.fleet import campaigns
from bench_lib.fleet.plan import Plan
from bench_lib.fleet.runner import FleetRunner
from bench_lib.fleet.status import CampaignStatus
from bench_lib.fleet.work import Kind
from bench_lib.record import Kernel, Record, RequestName, ScenarioName
from bench_lib.settings import Settings
from bench_lib.trial.case import Case
from tests.fake_fleet import FakeFleet, connecting, host

KERNEL = Kernel("6.12", "#1")
CASES = [Case(name, RequestName.STOP) for name in (ScenarioName.PAUSED, ScenarioName.IDLE)]


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> FakeFleet:
    made = FakeFleet(host("host-a"), host("host-b"))
    monkeypatch.setattr(campaigns, "connected", connecting(made))
    monkeypatch.setattr(campaigns, "AGAIN_S", 0.0)
    return made


@pytest.fixture
def settings(history: Path) -> Settings:
    return Settings.from_environment()


def test_all_trials_are_made_in_one_boot_of_the_host(fleet: FakeFleet, settings: Settings) -> None:
    seen: list[Record] = []
    made = FleetRunner(KERNEL, settings, "host-b").run(CASES, seen.append)
    assert made == seen == fleet.kept
    assert [each.scenario for each in made] == ["paused", "idle"]
    assert {(each.host.kind, each.host.machine) for each in made} == {("lab", "host-b")}
    assert len({each.boot_id for each in made}) == 1


def test_each_run_is_a_boot_of_its_own(fleet: FakeFleet, settings: Settings) -> None:
    runner = FleetRunner(KERNEL, settings)
    runner.run(CASES, lambda made: None)
    runner.run(CASES, lambda made: None)
    assert len({each.boot_id for each in fleet.kept}) == 2
    assert [plan.hosts for plan in fleet.submitted] == [(), ()]


def test_the_booted_kernel_of_a_host_can_be_measured(fleet: FakeFleet, settings: Settings) -> None:
    (made,) = FleetRunner(KERNEL, settings, "host-a", Kind.HOST).run(CASES[:1], lambda made: None)
    assert made.host.kind == "native"


def test_records_that_the_coordinator_did_not_pass_on_are_asked_for(
    fleet: FakeFleet, settings: Settings
) -> None:
    fleet.forgets = True
    seen: list[Record] = []
    runner = FleetRunner(KERNEL, settings)
    runner.run(CASES, lambda made: None)
    assert runner.run(CASES, seen.append) == seen == fleet.kept[2:]


def test_a_coordinator_that_comes_back_is_waited_for(fleet: FakeFleet, settings: Settings) -> None:
    fleet.unreachable = 3
    assert len(FleetRunner(KERNEL, settings).run(CASES, lambda made: None)) == 2


def test_a_coordinator_that_stays_away_is_given_up(
    fleet: FakeFleet, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaigns, "PATIENCE_S", -1.0)
    fleet.unreachable = 1
    with pytest.raises(FleetUnreachable):
        FleetRunner(KERNEL, settings).run(CASES, lambda made: None)


def test_a_boot_that_cannot_be_made_is_an_error_with_the_reason(
    fleet: FakeFleet, settings: Settings
) -> None:
    fleet.breaks["host-a"] = "3 boots failed in a row"
    with pytest.raises(CampaignIncomplete, match=r"6\.12 was not made. host-a is set aside: 3 boo"):
        FleetRunner(KERNEL, settings, "host-a").run(CASES, lambda made: None)


def test_a_signal_cancels_the_campaign(fleet: FakeFleet, settings: Settings) -> None:
    fleet.ends = False

    def on_news(status: CampaignStatus) -> None:
        os.kill(os.getpid(), interrupt.SIGNALS[0])

    runner = FleetRunner(KERNEL, settings, on_news=on_news)
    with pytest.raises(Interrupted):
        runner.run(CASES, lambda made: None)
    assert fleet.cancelled == [plan.id for plan in fleet.submitted]


def test_a_campaign_goes_on_without_repeating_its_records(
    fleet: FakeFleet, settings: Settings
) -> None:
    seen: list[Record] = []
    plan = Plan(Kind.LAB, (KERNEL,), tuple(CASES), 2, ("host-a",))

    async def twice() -> None:
        await campaigns.carry_out(fleet, plan, seen.append)
        await campaigns.carry_out(fleet, plan, seen.append)

    asyncio.run(twice())
    assert len(seen) == len(fleet.kept) == 4


def test_hosts_get_the_settings_of_the_user_but_no_path(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KICKBENCH_DEADLINE", "2.5")
    monkeypatch.setenv("KICKBENCH_GUEST_KERNEL", "debian/6.1")
    found = campaigns.settings_for_hosts(Settings.from_environment())
    assert found == {
        "KICKBENCH_STAGING": "30",
        "KICKBENCH_DEADLINE": "2.5",
        "KICKBENCH_GUEST_KERNEL": "debian/6.1",
    }
    monkeypatch.setenv("KICKBENCH_GUEST_KERNEL", str(history))
    monkeypatch.delenv("KICKBENCH_DEADLINE")
    found = campaigns.settings_for_hosts(Settings.from_environment())
    assert found == {"KICKBENCH_STAGING": "30"}


def test_without_an_address_there_is_no_fleet(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="set KICKBENCH_FLEET"):
        FleetRunner(KERNEL, settings).run(CASES, lambda made: None)
