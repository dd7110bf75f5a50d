# SPDX-License-Identifier: BSD-3-Clause
"""One boot of a campaign: a host makes it, and its records are kept."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import suppress

from bench_lib import record
from bench_lib.errors import LedgerError, RecordNotWritten
from bench_lib.fleet import performing, work
from bench_lib.fleet.calls import Calls, Dropped
from bench_lib.fleet.members import Member
from bench_lib.fleet.news import News
from bench_lib.fleet.plan import Boot, Plan
from bench_lib.fleet.progress import Underway, listed
from bench_lib.fleet.roster import Roster
from bench_lib.fleet.work import Kind, Result, Work
from bench_lib.record import Outcome, Record, Slot
from bench_lib.trial.history import History

BUSY_S = 30.0
"""How long to wait before a host is asked again on which another run was measuring."""

FULL_S = 10.0
"""How long to wait before records that could not be appended are appended again."""

MARGIN_S = 120.0
"""How much longer than its host the coordinator waits for the end of a boot."""

HOST_KIND = {Kind.HOST: "native", Kind.LAB: "lab"}
"""The kind of host in the records of each kind of work."""


class Making:
    """Has hosts make boots, and appends their records, which nothing else does."""

    def __init__(
        self,
        calls: Calls,
        roster: Roster,
        history: History,
        news: News,
        on_event: Callable[[str], None],
    ) -> None:
        """:param on_event: called with a sentence for the operator's log."""
        self._calls = calls
        self._roster = roster
        self._history = history
        self._news = news
        self._say = on_event
        self._keeping = asyncio.Lock()

    async def make(self, campaign: Underway, boot: Boot, member: Member) -> None:
        """Let a host make a boot, and keep its records."""
        campaign.running += 1
        address = member.address
        try:
            if await self._made(campaign, boot, member):
                return
            campaign.again(boot)
        except Dropped:
            if member.address != address:
                self._roster.dropped(member)
            campaign.again(boot)
        except asyncio.CancelledError:
            campaign.again(boot)
            raise
        except Exception as error:  # noqa: BLE001  # what a host raises may be of any class
            self._failed(campaign, boot, member, str(error) or type(error).__name__)
        finally:
            campaign.running -= 1
            self._news.tell(member.facts.name, None, campaign.plan.id)

    async def _made(self, campaign: Underway, boot: Boot, member: Member) -> bool:
        """Let a host make a boot. Return False if it could not, and should be asked again.

        :raise Dropped: the connection was lost before there was an answer.
        :raise Overdue: the host did not answer in time.
        """
        plan, name = campaign.plan, member.facts.name
        given = Work(plan.kind, boot.kernel, plan.cases, campaign.limit_s, plan.settings)
        text = f"{boot.kernel.release} ({plan.kind}), boot {boot.number + 1} of {plan.id}"
        answer = await self._calls.on(
            member, text, campaign.limit_s + MARGIN_S, performing.perform, work.to_json(given)
        )
        result = work.from_json(answer, Result)
        if result.busy:
            campaign.warnings[name] = f"{name} is busy: {result.failure}"
            await asyncio.sleep(BUSY_S)
            return False
        campaign.warnings.pop(name, None)
        if result.failure is not None and result.by_kernel:
            self._say(f"{name} has no {boot.kernel.release}: {result.failure}")
            campaign.failed(boot, f"on {name}: {result.failure}")
            return True
        records = [record.from_line(line) for line in result.lines]
        failure = result.failure or _flaw(plan, boot, name, records)
        if failure is not None:
            self._failed(campaign, boot, member, failure)
            return True
        await self._keep(campaign, boot, records)
        lost = [each for each in records if each.outcome is Outcome.LOST]
        barren = len(lost) == len(records) and all(each.tried for each in lost)
        self._roster.succeeded(member, boot.kernel, len(lost), barren=barren)
        return True

    def _failed(self, campaign: Underway, boot: Boot, member: Member, failure: str) -> None:
        self._roster.failed(member, boot.kernel, failure)
        campaign.failed(boot, f"on {member.facts.name}: {failure}")

    async def _keep(self, campaign: Underway, boot: Boot, records: Sequence[Record]) -> None:
        """Append the records of a boot. If there is no room, wait until there is."""
        slot = Slot(campaign.plan.id, boot.number)
        placed = [dataclasses.replace(each, slot=slot) for each in records]
        while True:
            try:
                async with self._keeping:
                    await self._append(campaign, placed)
                break
            except (RecordNotWritten, LedgerError) as error:
                if campaign.warnings.get("records") != str(error):
                    self._say(str(error))
                campaign.warnings["records"] = str(error)
                await asyncio.sleep(FULL_S)
        campaign.warnings.pop("records", None)

    async def _append(self, campaign: Underway, records: Sequence[Record]) -> None:
        """Append records, and take that down even if this is cancelled meanwhile.

        The thread that appends them cannot be stopped.

        :raise RecordNotWritten, LedgerError: nothing was appended.
        """

        async def append() -> None:
            await asyncio.to_thread(self._history.keep, *records)
            campaign.made(records)

        appending = asyncio.ensure_future(append())
        try:
            await asyncio.shield(appending)
        except asyncio.CancelledError:
            with suppress(RecordNotWritten, LedgerError):
                await appending
            raise


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
