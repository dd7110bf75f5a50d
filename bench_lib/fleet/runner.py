# SPDX-License-Identifier: BSD-3-Clause
"""A runner that makes trials on a host of the fleet."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench_lib import interrupt
from bench_lib.errors import CampaignIncomplete
from bench_lib.fleet import campaigns
from bench_lib.fleet.plan import Plan
from bench_lib.fleet.status import CampaignState, CampaignStatus
from bench_lib.fleet.work import Kind
from bench_lib.record import Kernel, Record
from bench_lib.settings import Settings
from bench_lib.trial.case import Case

if TYPE_CHECKING:
    from bench_lib.fleet.client import FleetClient


@dataclass(frozen=True)
class FleetRunner:
    """Makes trials in one boot of a kernel, on a host of the fleet.

    The coordinator keeps the records, so they are in its record file and not in ours.

    :ivar host: the name of the host; None if any host with room may make the boot.
    :ivar kind: whether the host boots the kernel in a lab, or has to have booted it.
    :ivar on_news: called at least every ten seconds, also while the boot waits for its turn.
    """

    kernel: Kernel
    settings: Settings
    host: str | None = None
    kind: Kind = Kind.LAB
    on_news: Callable[[CampaignStatus], None] = lambda status: None

    def run(self, cases: Sequence[Case], on_record: Callable[[Record], None]) -> list[Record]:
        """Make a trial of each of `cases`, in this order.

        The records of a boot are kept together, so `on_record` is called for all of them at the
        end.

        :raise FleetError: the fleet cannot be used.
        :raise CampaignIncomplete: no host could make the boot; nothing was kept.
        :raise Interrupted: a signal ended the run, and the boot with it.
        """
        return interrupt.run(self._run(cases, on_record))

    async def _run(
        self, cases: Sequence[Case], on_record: Callable[[Record], None]
    ) -> list[Record]:
        async with campaigns.connected(self.settings) as fleet:
            return await self.run_on(fleet, cases, on_record)

    async def run_on(
        self, fleet: FleetClient, cases: Sequence[Case], on_record: Callable[[Record], None]
    ) -> list[Record]:
        """Do the same over a connection that exists already."""
        plan = Plan(
            self.kind,
            (self.kernel,),
            tuple(cases),
            boots=1,
            hosts=(self.host,) if self.host is not None else (),
            settings=campaigns.settings_for_hosts(self.settings),
            # No other boot has this name, so this one is always made.
            name=uuid.uuid4().hex,
        )
        made: list[Record] = []
        status = await campaigns.carry_out(fleet, plan, made.append, self.on_news)
        if status.state is not CampaignState.COMPLETE:
            why = " ".join(status.missing) or f"Campaign {status.id} was cancelled."
            raise CampaignIncomplete(f"The boot of {self.kernel.release} was not made. {why}")
        if len(made) != len(cases):
            # The coordinator was restarted in between, or the boot has more trials than it keeps
            # for users who follow a campaign.
            made = plan.made(await fleet.records([self.kernel]))
        for each in made:
            on_record(each)
        return made
