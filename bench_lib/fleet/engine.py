# SPDX-License-Identifier: BSD-3-Clause
"""The campaigns of a coordinator: which boot is made next, where, and what becomes of it."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from bench_lib import record
from bench_lib.errors import (
    FleetError,
    FleetRefused,
    LedgerError,
    RecordNotWritten,
    UnknownCampaign,
)
from bench_lib.fleet import conditions, performing, work
from bench_lib.fleet.background import Background
from bench_lib.fleet.calls import Calls, Dropped
from bench_lib.fleet.facts import HostFacts
from bench_lib.fleet.journal import Journal, KeptCampaign
from bench_lib.fleet.limits import limit_s
from bench_lib.fleet.members import Member
from bench_lib.fleet.news import News
from bench_lib.fleet.plan import Boot, Plan
from bench_lib.fleet.progress import Progress, Underway, listed
from bench_lib.fleet.roster import LOOK_S, Roster
from bench_lib.fleet.status import CampaignState, CampaignStatus
from bench_lib.fleet.work import Kind, Result, Work
from bench_lib.record import Kernel, Outcome, Record, Slot
from bench_lib.settings import Settings
from bench_lib.trial.history import History

BUSY_S = 30.0
"""How long to wait before a host is asked again on which another run was measuring."""

FULL_S = 10.0
"""How long to wait before records that could not be appended are appended again."""

FOLLOW_S = 10.0
"""How long a user who follows a campaign waits for news at a time."""

HOST_KIND = {Kind.HOST: "native", Kind.LAB: "lab"}
"""The kind of host in the records of each kind of work."""


class Engine:
    """Gives the boots of campaigns to the hosts of a fleet, and keeps their records."""

    def __init__(
        self,
        calls: Calls,
        roster: Roster,
        journal: Journal,
        news: News,
        background: Background,
        settings: Settings,
        on_event: Callable[[str], None],
    ) -> None:
        """Remember the campaigns of the journal. `start` then goes on with them.

        :param on_event: called with a sentence for the operator's log.
        :raise FleetError: the journal cannot be read.
        :raise LedgerError: the ledger cannot be read.
        :raise StoreError: the record file cannot be read.
        """
        self._calls = calls
        self._roster = roster
        self._journal = journal
        self._news = news
        self._background = background
        self._history = History(settings)
        self._records = settings.records
        self._say = on_event
        self._keeping = asyncio.Lock()
        self._campaigns: dict[str, Underway] = {}
        records, _ = record.read(self._records)
        for kept in journal.campaigns():
            campaign = self._campaigns[kept.plan.id] = Underway(kept.plan, kept.state)
            campaign.take(records)

    def start(self) -> None:
        """Go on with the campaigns that have not ended."""
        for campaign in self._campaigns.values():
            if campaign.state is CampaignState.RUNNING:
                self._begin(campaign)

    # What users ask for.

    async def submit(self, plan: Plan) -> CampaignStatus:
        """Begin a campaign, or go on with it.

        :raise UnknownHost: the fleet has no host of a name in the plan.
        :raise FleetRefused: the plan cannot be carried out.
        :raise FleetError: the journal cannot be written.
        """
        if plan.kind is Kind.HOST and not plan.hosts:
            raise FleetRefused("Host work is bound to hosts; name them with --host.")
        if not plan.kernels or not plan.cases or plan.boots < 1:
            raise FleetRefused("A campaign needs kernels, cases and boots.")
        for name in plan.hosts:
            self._roster.find(name)
        if plan.id not in self._campaigns:
            records, _ = await asyncio.to_thread(record.read, self._records)
            # Another user may have submitted the same plan meanwhile.
            if plan.id not in self._campaigns:
                self._campaigns[plan.id] = Underway(plan)
                self._campaigns[plan.id].take(records)
        campaign = self._campaigns[plan.id]
        if not self._background.has(plan.id):
            campaign.plan = plan
            self._journal.keep_campaign(KeptCampaign(plan, CampaignState.RUNNING))
            self._begin(campaign)
        return campaign.status()

    async def cancel(self, id: str) -> None:  # noqa: A002  # it is the word of the interface
        """End a campaign. What hosts are making for it is dropped.

        :raise UnknownCampaign: there is no such campaign.
        """
        campaign = self._campaign(id)
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
        campaign.start()
        self._say(f"campaign {campaign.plan.id} goes on: {campaign.status().what}")
        self._background.spawn(self._run(campaign), campaign.plan.id)
        self._news.tell(campaign.plan.id)

    async def _run(self, campaign: Underway) -> None:
        async with asyncio.TaskGroup() as group:
            for host in campaign.plan.hosts or (None,):
                group.create_task(self._feed(campaign, host))
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
        """Make the boots of one host, or those that any host may make."""
        plan = campaign.plan
        flying: set[asyncio.Task[None]] = set()
        idle_since = time.monotonic()
        try:
            while campaign.queues[host] or flying:
                boot = None
                if len(flying) < self._roster.room(plan.kind, host):
                    boot = campaign.next(host, self._fits(campaign, host))
                if boot is not None:
                    flying.add(asyncio.create_task(self._make(campaign, boot)))
                    continue
                if campaign.running:
                    idle_since = time.monotonic()
                if not flying:
                    if (member := self._to_reboot(campaign, host)) is not None:
                        await self._roster.reboot(*member)
                        continue
                    why, patience_s = self._why_not(campaign, host)
                    if time.monotonic() - idle_since > patience_s:
                        campaign.ended[host] = why
                        return
                await self._news.wait(host, LOOK_S)
                flying = {task for task in flying if not task.done()}
        finally:
            for task in flying:
                task.cancel()
            await asyncio.gather(*flying, return_exceptions=True)

    def _fits(self, campaign: Underway, host: str | None) -> Callable[[Boot], bool]:
        """Return whether a boot can be made now, given that its host can work."""
        if host is None or campaign.plan.kind is Kind.LAB:
            return lambda boot: True
        facts = self._roster[host].facts
        fresh = not campaign.used(host, facts.boot_id)
        return lambda boot: fresh and boot.kernel == facts.kernel

    def _to_reboot(self, campaign: Underway, host: str | None) -> tuple[Member, Kernel] | None:
        """Return a host that should be rebooted, and the kernel; or None."""
        plan = campaign.plan
        if plan.kind is Kind.LAB or not plan.reboot or host is None:
            return None
        member = self._roster[host]
        if member.obstacle(plan.kind) or not member.facts.reboots or self._calls.working(member):
            return None
        there = {*member.facts.installed, member.facts.kernel}
        wanted = (boot.kernel for boot in campaign.queues[host] if boot.kernel in there)
        return next(((member, kernel) for kernel in wanted), None)

    def _why_not(self, campaign: Underway, host: str | None) -> tuple[str, float]:
        """Return why no boot is being made, as a sentence, and how long to wait nevertheless."""
        plan = campaign.plan
        left = len(campaign.queues[host])
        boots = f"{left} boot{'s' if left > 1 else ''}"
        if host is None:
            return f"No host of the fleet can do lab work for {boots}.", plan.patience_s
        member = self._roster[host]
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

    async def _make(self, campaign: Underway, boot: Boot) -> None:
        """Let a host make a boot, and keep its records."""
        campaign.running += 1
        try:
            await self._try(campaign, boot)
        except Dropped:
            if boot.host is not None:
                self._roster.dropped(self._roster[boot.host])
            campaign.again(boot)
        except asyncio.CancelledError:
            campaign.again(boot)
            raise
        except Exception as error:  # noqa: BLE001  # what a host raises may be of any class
            member = self._roster[boot.host] if boot.host is not None else None
            self._failed(campaign, boot, member, f"{type(error).__name__}: {error}")
        finally:
            campaign.running -= 1
            self._news.tell(boot.host, campaign.plan.id)

    async def _try(self, campaign: Underway, boot: Boot) -> None:
        plan = campaign.plan
        given = work.to_json(Work(plan.kind, boot.kernel, plan.cases, limit_s(plan), plan.settings))
        text = f"{boot.kernel.release} ({plan.kind}), boot {boot.number + 1} of {plan.id}"
        member: Member | None
        if boot.host is not None:
            member = self._roster[boot.host]
            answer = await self._calls.on(member, text, performing.perform, given)
        else:
            address, answer = await self._calls.anywhere(text, performing.perform, given)
            member = self._roster.at(address)
            if member is None:
                raise Dropped
        name = member.facts.name
        result = work.from_json(answer, Result)
        if result.busy:
            campaign.warnings[name] = f"{name} is busy: {result.failure}"
            await asyncio.sleep(BUSY_S)
            campaign.again(boot)
            return
        campaign.warnings.pop(name, None)
        records = [record.from_line(line) for line in result.lines]
        if (failure := result.failure or _flaw(plan, boot, name, records)) is not None:
            self._failed(campaign, boot, member, failure)
            return
        await self._keep(campaign, boot, records)
        member.succeeded(sum(each.outcome is Outcome.LOST for each in records))

    def _failed(self, campaign: Underway, boot: Boot, member: Member | None, failure: str) -> None:
        if member is not None:
            self._roster.failed(member, boot.kernel, failure)
        where = f"on {member.facts.name}: " if member is not None else ""
        campaign.failed(boot, f"{where}{failure}")

    async def _keep(self, campaign: Underway, boot: Boot, records: Sequence[Record]) -> None:
        """Append the records of a boot. If there is no room, wait until there is."""
        slot = Slot(campaign.plan.id, boot.number)
        placed = [dataclasses.replace(each, slot=slot) for each in records]
        while True:
            try:
                async with self._keeping:
                    await asyncio.to_thread(self._history.keep, *placed)
                break
            except (RecordNotWritten, LedgerError) as error:
                if campaign.warnings.get("records") != str(error):
                    self._say(str(error))
                campaign.warnings["records"] = str(error)
                await asyncio.sleep(FULL_S)
        campaign.warnings.pop("records", None)
        campaign.made(placed)


def _flaw(plan: Plan, boot: Boot, name: str, records: Sequence[Record]) -> str | None:
    """Return why records are not those of the boot that was asked for, or None if they are."""
    if len(records) != len(plan.cases):
        return f"it returned {len(records)} records for {len(plan.cases)} trials"
    if kernels := {each.kernel.release for each in records if each.kernel != boot.kernel}:
        return f"it measured another build, {listed(sorted(kernels))}"
    if hosts := {each.host.machine for each in records} - {name}:
        return f"its records name {listed(sorted(hosts))} as their host"
    if kinds := {each.host.kind for each in records} - {HOST_KIND[plan.kind]}:
        return f"its records are of the kind {listed(sorted(kinds))}"
    return None
