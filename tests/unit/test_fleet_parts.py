# SPDX-License-Identifier: BSD-3-Clause
"""The small parts of a coordinator: its journal, its news, its tasks, and what it refuses."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from bench_lib.errors import FleetError, FleetRefused
from bench_lib.fleet.background import Background
from bench_lib.fleet.journal import Journal, KeptCampaign, KeptHost
from bench_lib.fleet.limits import limit_s
from bench_lib.fleet.news import News
from bench_lib.fleet.plan import Plan
from bench_lib.fleet.refusals import MOST, Refusals
from bench_lib.fleet.status import CampaignState
from bench_lib.fleet.work import Kind
from bench_lib.record import Kernel, RequestName, ScenarioName
from bench_lib.trial.case import Case
from tests.unit.test_fleet_members import FACTS

PLAN = Plan(
    Kind.LAB,
    (Kernel("6.1.0-56-amd64", "#1"),),
    (Case(ScenarioName.BLACKHOLE, RequestName.STOP),),
    boots=2,
    hosts=("a",),
    settings={"KICKBENCH_DEADLINE": "2"},
)


def test_the_journal_remembers_campaigns_and_hosts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "fleet")
    host = KeptHost(FACTS, drained=True, aside="it is broken")
    with journal.held():
        assert (journal.campaigns(), journal.hosts()) == ([], {})
        journal.keep_campaign(KeptCampaign(PLAN, CampaignState.RUNNING))
        journal.keep_hosts({"a": host})
    again = Journal(tmp_path / "fleet")
    assert again.campaigns() == [KeptCampaign(PLAN, CampaignState.RUNNING)]
    assert again.campaigns()[0].plan.id == PLAN.id
    assert again.hosts() == {"a": host}


def test_a_campaign_is_replaced_in_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.keep_campaign(KeptCampaign(PLAN, CampaignState.RUNNING))
    journal.keep_campaign(KeptCampaign(PLAN, CampaignState.COMPLETE))
    assert [each.state for each in journal.campaigns()] == [CampaignState.COMPLETE]


def test_two_coordinators_do_not_share_a_journal(tmp_path: Path) -> None:
    with Journal(tmp_path).held(), pytest.raises(FleetRefused), Journal(tmp_path).held():
        pass
    with Journal(tmp_path).held():
        pass


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "campaign-1.json").write_text("{")
    with pytest.raises(FleetError, match=r"campaign-1\.json"):
        Journal(tmp_path).campaigns()


def test_a_journal_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="cannot be written"):
        Journal(tmp_path / "missing").keep_hosts({})
    (tmp_path / "file").touch()
    with pytest.raises(FleetError, match="cannot be used"), Journal(tmp_path / "file" / "x").held():
        pass


def test_news_wake_only_what_waits_for_their_topic() -> None:
    async def run() -> list[str]:
        news = News()
        woken: list[str] = []

        async def wait(topic: str) -> None:
            await news.wait(topic, 60)
            woken.append(topic)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(wait(topic)) for topic in ("a", "b", "c")]
            await asyncio.sleep(0)
            news.tell("a", "c", "nothing")
            await asyncio.wait([tasks[0], tasks[2]])
            news.tell("b")
        return woken

    assert sorted(asyncio.run(run())) == ["a", "b", "c"]


def test_news_do_not_come_for_ever() -> None:
    asyncio.run(News().wait("a", 0.0))


def test_background_work_is_broken_off_by_its_name() -> None:
    async def run() -> list[str]:
        background = Background(lambda sentence: None)
        ended: list[str] = []

        async def work(name: str) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(name)

        background.spawn(work("a"), "a")
        background.spawn(work("b"), "b")
        await asyncio.sleep(0)
        await background.cancel("a")
        assert (background.has("a"), background.has("b")) == (False, True)
        await background.stop()
        return ended

    assert asyncio.run(run()) == ["a", "b"]


def test_a_defect_in_background_work_is_reported() -> None:

    async def run() -> str:
        said: asyncio.Queue[str] = asyncio.Queue()
        background = Background(said.put_nowait)

        async def work() -> None:
            raise ZeroDivisionError

        background.spawn(work())
        return await said.get()

    assert "ZeroDivisionError" in asyncio.run(run())


def test_refusals_are_counted_by_where_they_came_from() -> None:
    refusals = Refusals()
    for port in (1, 2):
        refusals.add(f"tls://192.0.2.1:{port}", "no certificate")
    refusals.add("tls://192.0.2.2:1", "no certificate")
    assert [(each.address, each.times) for each in refusals.all()] == [
        ("192.0.2.1", 2),
        ("192.0.2.2", 1),
    ]


def test_the_oldest_refusals_are_forgotten() -> None:
    refusals = Refusals()
    for number in range(MOST + 1):
        refusals.add(f"tls://h{number}:1", "no certificate")
    found = [each.address for each in refusals.all()]
    assert (len(found), found[0], found[-1]) == (MOST, "h1", f"h{MOST}")


def test_a_boot_has_time_for_its_slowest_end() -> None:
    """Ten minutes for the fetching and the boots of labs are the least that has to be added."""
    many = dataclasses.replace(PLAN, cases=PLAN.cases * 10)
    per_trial_s = (limit_s(many) - limit_s(PLAN)) / 9
    assert per_trial_s > 60 + 2
    assert limit_s(PLAN) > 600
    assert limit_s(dataclasses.replace(PLAN, kind=Kind.HOST)) < limit_s(PLAN)
