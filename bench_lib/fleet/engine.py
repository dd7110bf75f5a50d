# SPDX-License-Identifier: BSD-3-Clause
"""The campaigns of a coordinator: which boot is made next, and on which host."""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress

from bench_lib import record
from bench_lib.errors import FleetError, FleetRefused, UnknownCampaign
from bench_lib.fleet import conditions
from bench_lib.fleet.background import Background, broken_off
from bench_lib.fleet.calls import Calls
from bench_lib.fleet.facts import HostFacts
from bench_lib.fleet.journal import Journal, KeptCampaign
from bench_lib.fleet.limits import limit_s
from bench_lib.fleet.making import Making
from bench_lib.fleet.members import Member
from bench_lib.fleet.news import News
from bench_lib.fleet.plan import Boot, Plan
from bench_lib.fleet.progress import Progress, Underway, listed
from bench_lib.fleet.roster import LOOK_S, Roster
from bench_lib.fleet.status import CampaignState, CampaignStatus
from bench_lib.fleet.work import Kind
from bench_lib.record import Kernel, Record
from bench_lib.settings import Settings
from bench_lib.trial.history import History

MOST_BOOTS = 100_000
"""The most boots of a campaign. They take years."""

MOST_ENDED = 100
"""How many campaigns that have ended are remembered. The records of all are kept."""

FOLLOW_S = 10.0
"""How long a user who follows a campaign waits for news at a time."""


class Engine:
    """Gives the boots of campaigns to the hosts of a fleet."""

    def __init__(
        self,
        calls: Calls,
        roster: Roster,
        journal: Journal,
        news: News,
        background: Background,
        settings: Settings,
        records: Iterable[Record],
        on_event: Callable[[str], None],
    ) -> None:
        """Remember the campaigns of the journal. `start` then goes on with them.

        :param records: the records so far.
        :param on_event: called with a sentence for the operator's log.
        :raise FleetError: the journal cannot be read.
        :raise LedgerError: the ledger cannot be read.
        """
        self._roster = roster
        self._journal = journal
        self._news = news
        self._background = background
        self._making = Making(calls, roster, History(settings), news, on_event)
        self._records = settings.records
        self._say = on_event
        self._campaigns: dict[str, Underway] = {}
        by_campaign: defaultdict[str, list[Record]] = defaultdict(list)
        for each in records:
            if each.slot is not None:
                by_campaign[each.slot.campaign].append(each)
        for kept in journal.campaigns():
            campaign = self._campaigns[kept.plan.id] = Underway(kept.plan, kept.state)
            campaign.take(by_campaign[kept.plan.id])

    def start(self) -> None:
        """Go on with the campaigns that have not ended."""
        for campaign in list(self._campaigns.values()):
            if campaign.state is CampaignState.RUNNING:
                campaign.limit_s = limit_s(campaign.plan)
                self._begin(campaign)

    # What users ask for.

    async def submit(self, plan: Plan) -> CampaignStatus:
        """Begin a campaign, or go on with it.

        :raise UnknownHost: the fleet has no host of a name in the plan.
        :raise FleetRefused: the plan cannot be carried out.
        :raise FleetError: the journal cannot be written.
        """
        _check(plan)
        for name in plan.hosts:
            self._roster.find(name)
        most_s = limit_s(plan)
        if plan.id not in self._campaigns:
            records, _ = await asyncio.to_thread(record.read, self._records)
            # Another user may have submitted the same plan meanwhile.
            if plan.id not in self._campaigns:
                self._journal.keep_campaign(KeptCampaign(plan, CampaignState.RUNNING))
                self._campaigns[plan.id] = Underway(plan)
                self._campaigns[plan.id].take(records)
        # A campaign that goes on is the newest one again.
        campaign = self._campaigns[plan.id] = self._campaigns.pop(plan.id)
        campaign.plan, campaign.limit_s = plan, most_s
        if not self._background.has(plan.id):
            self._journal.keep_campaign(KeptCampaign(plan, CampaignState.RUNNING))
            self._begin(campaign)
        return campaign.status()

    async def cancel(self, id: str) -> None:  # noqa: A002  # it is the word of the interface
        """End a campaign. Hosts are asked to end what they are making for it.

        :raise UnknownCampaign: there is no such campaign.
        :raise FleetRefused: it has ended already.
        """
        campaign = self._campaign(id)
        if campaign.state is not CampaignState.RUNNING:
            raise FleetRefused(f"Campaign {id} is {campaign.state} already.")
        await self._background.cancel(id)
        if campaign.state is CampaignState.RUNNING:
            self._end(campaign, CampaignState.CANCELLED)

    async def follow(self, id: str, seen: int) -> Progress:  # noqa: A002
        """Wait for news of a campaign, and return them.

        :param seen: the number of records that the user has seen.
        :raise UnknownCampaign: there is no such campaign.
        """
        campaign = self._campaign(id)
        if not campaign.progress(seen).lines and campaign.state is CampaignState.RUNNING:
            await self._news.wait(id, FOLLOW_S)
        return campaign.progress(seen)

    def statuses(self) -> tuple[CampaignStatus, ...]:
        """Return how far each campaign is, oldest first."""
        return tuple(each.status() for each in self._campaigns.values())

    def _campaign(self, id: str) -> Underway:  # noqa: A002
        if id not in self._campaigns:
            known = ", ".join(self._campaigns) or "none"
            raise UnknownCampaign(f"There is no campaign {id}; the campaigns are: {known}.")
        return self._campaigns[id]

    # What hosts need to be told about.

    def has_records_of(self, host: str) -> bool:
        """Whether a campaign has records of a host of this name."""
        return any(host in campaign.boot_ids for campaign in self._campaigns.values())

    def changed(self, facts: HostFacts) -> str | None:
        """Return why records that a host would make now could not be compared with its others."""
        now = conditions.of_host(facts)
        for campaign in self._campaigns.values():
            if campaign.state is not CampaignState.RUNNING:
                continue
            why = conditions.changed(campaign.conditions.get(facts.name, {}), now)
            if why is not None:
                return (
                    f"{why} in its records of campaign {campaign.plan.id}, so new ones could not "
                    "be compared with them; change it back, or cancel the campaign"
                )
        return None

    # Campaigns.

    def _begin(self, campaign: Underway) -> None:
        self._forget_ended()
        campaign.start()
        self._say(f"campaign {campaign.plan.id} runs: {campaign.status().what}")
        self._background.spawn(self._run(campaign), campaign.plan.id)
        self._news.tell(campaign.plan.id)

    def _forget_ended(self) -> None:
        """Forget the oldest campaigns that have ended, and the records of the others."""
        ended = [
            name
            for name, each in self._campaigns.items()
            if each.state is not CampaignState.RUNNING
        ]
        for name in ended:
            self._campaigns[name].recent.clear()
        for name in ended[:-MOST_ENDED]:
            del self._campaigns[name]
            self._journal.forget_campaign(name)

    async def _run(self, campaign: Underway) -> None:
        feeds = [
            asyncio.create_task(self._feed(campaign, host))
            for host in campaign.plan.hosts or (None,)
        ]
        try:
            await asyncio.gather(*feeds)
        finally:
            await broken_off(feeds)
            for member in self._roster:
                if member.promised == campaign.plan.id:
                    member.promised = None
        complete = campaign.complete
        self._end(campaign, CampaignState.COMPLETE if complete else CampaignState.INCOMPLETE)

    def _end(self, campaign: Underway, state: CampaignState) -> None:
        campaign.state = state
        # Without it, the next coordinator would begin the campaign again, which does no harm.
        with suppress(FleetError):
            self._journal.keep_campaign(KeptCampaign(campaign.plan, state))
        done = f"{len(campaign.done)} of {campaign.boots} boots"
        self._say(f"campaign {campaign.plan.id} is {state}: {done}")
        self._news.tell(campaign.plan.id)

    async def _feed(self, campaign: Underway, host: str | None) -> None:
        """Make the boots of one host, or those that any host may make.

        A host that can make none now is waited for as long as others are making theirs.
        """
        making: set[asyncio.Task[None]] = set()
        idle_since = time.monotonic()
        try:
            while campaign.queues[host] or making:
                member = self._roster.with_room(campaign.plan.kind, host)
                boot = None
                if member is not None:
                    boot = campaign.next(host, self._fits(campaign, member))
                if member is not None and boot is not None:
                    campaign.ended.pop(host, None)
                    member.busy += 1
                    if member.promised == campaign.plan.id:
                        member.promised = None
                    making.add(asyncio.create_task(self._making.make(campaign, boot, member)))
                    continue
                if campaign.running or (member is not None and member.busy):
                    idle_since = time.monotonic()
                if not making:
                    if member is not None and (kernel := self._to_boot(campaign, member)):
                        await self._roster.reboot(member, kernel, campaign.plan.id)
                        continue
                    why, patience_s = self._why_not(campaign, host)
                    if time.monotonic() - idle_since > patience_s:
                        campaign.ended[host] = why
                        if campaign.stuck:
                            return
                await self._news.wait(host, LOOK_S)
                making = {task for task in making if not task.done()}
        finally:
            # A task that never began would not give back what was counted for it above.
            await asyncio.sleep(0)
            await broken_off(making)

    def _fits(self, campaign: Underway, member: Member) -> Callable[[Boot], bool]:
        """Return whether a host, which has room, can make a boot now."""
        if campaign.plan.kind is Kind.LAB:
            return lambda boot: True
        facts = member.facts
        fresh = member.promised in {None, campaign.plan.id} and not campaign.used(
            facts.name, facts.boot_id
        )
        return lambda boot: fresh and boot.kernel == facts.kernel

    def _to_boot(self, campaign: Underway, member: Member) -> Kernel | None:
        """Return the kernel that a host should be rebooted into now, or None."""
        plan, facts = campaign.plan, member.facts
        if not plan.reboot or not facts.reboots or member.busy:
            return None
        if member.promised not in {None, plan.id}:
            return None
        there = {*facts.installed, facts.kernel}
        return next(
            (boot.kernel for boot in campaign.queues[facts.name] if boot.kernel in there), None
        )

    def _why_not(self, campaign: Underway, host: str | None) -> tuple[str, float]:
        """Return why no boot is being made, as a sentence, and how long to wait nevertheless."""
        plan = campaign.plan
        left = len(campaign.queues[host])
        boots = f"{left} boot{'s' if left > 1 else ''}"
        if host is None:
            return f"No host of the fleet can do lab work for {boots}.", plan.patience_s
        member = self._roster.get(host)
        if member is None:
            return f"{host}, which lacks {boots}, has not joined.", plan.patience_s
        obstacle = member.obstacle(plan.kind)
        if obstacle is not None:
            # Only the operator can change that a host is set aside.
            return (
                f"{host}, which lacks {boots}, {obstacle}.",
                0 if member.aside else plan.patience_s,
            )
        lacking = list(dict.fromkeys(boot.kernel for boot in campaign.queues[host]))
        boots = f"{boots} of {listed([each.release for each in lacking])}"
        if member.facts.kernel in lacking:
            why = f"{host} lacks {boots}, and its present boot is recorded; boot it again"
        else:
            why = f"{host} lacks {boots}, and runs {member.facts.kernel.release}; boot it into that"
        return f"{why}, and repeat the command.", plan.patience_s


def _check(plan: Plan) -> None:
    """Check that a plan can be carried out.

    :raise FleetRefused: it cannot.
    """
    if plan.kind is Kind.HOST and not plan.hosts:
        raise FleetRefused("Host work is bound to hosts; name them with --host.")
    if not plan.kernels or not plan.cases or plan.boots < 1:
        raise FleetRefused("A campaign needs kernels, cases and boots.")
    if len(set(plan.kernels)) < len(plan.kernels) or len(set(plan.hosts)) < len(plan.hosts):
        raise FleetRefused("A campaign has each kernel and each host once.")
    boots = plan.boots * len(plan.kernels) * max(1, len(plan.hosts))
    if boots > MOST_BOOTS:
        raise FleetRefused(f"A campaign has at most {MOST_BOOTS} boots, and not {boots}.")
    if not 0 <= plan.patience_s < math.inf:
        raise FleetRefused("The patience of a campaign is a number of seconds.")
