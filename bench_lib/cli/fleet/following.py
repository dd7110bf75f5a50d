# SPDX-License-Identifier: BSD-3-Clause
"""Follow a campaign until it has ended, even if the coordinator is restarted meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from bench_lib.deadline import Deadline
from bench_lib.errors import FleetUnreachable
from bench_lib.fleet.plan import Plan
from bench_lib.fleet.progress import Progress
from bench_lib.fleet.status import CampaignState, CampaignStatus, FleetStatus
from bench_lib.record import Kernel, Record

RETRY_S = 1.0
"""The time between two attempts to reach the coordinator again."""

REFRESH_S = 2.0
"""The time between two looks at the hosts, in seconds. Only the coordinator is asked."""


class Coordinator(Protocol):
    """What `FleetClient` offers and a follower needs."""

    async def status(self) -> FleetStatus: ...
    async def submit(self, plan: Plan) -> CampaignStatus: ...
    async def follow(self, id: str, seen: int) -> Progress: ...  # noqa: A002
    async def records(self, kernels: Sequence[Kernel]) -> list[Record]: ...


Connect = Callable[[], AbstractAsyncContextManager[Coordinator]]


class Watcher(Protocol):
    """Shows an operator how a campaign goes."""

    needs_fleet: bool
    """Whether `fleet` is to be called."""

    def begun(self, campaign: CampaignStatus) -> None:
        """Show that the campaign was begun, or goes on."""

    def news(self, progress: Progress) -> None:
        """Show what is new in the campaign."""

    def fleet(self, status: FleetStatus) -> None:
        """Show what the hosts do; it is called every few seconds."""

    def broken(self, error: FleetUnreachable) -> None:
        """Show that the connection has broken."""


async def follow(
    connect: Connect, plan: Plan, watcher: Watcher
) -> tuple[CampaignStatus, list[Record]]:
    """Begin a campaign or go on with it, and follow it.

    :return: how it ended, and its records.
    :raise FleetUnreachable: the coordinator could not be reached when the campaign should begin, or
        later for as long as the patience of the plan.
    """
    seen = 0
    begun = False
    lost: Deadline | None = None
    while True:
        try:
            async with connect() as coordinator:
                if not begun:
                    campaign = await coordinator.submit(plan)
                    begun, seen = True, campaign.trials
                    watcher.begun(campaign)
                while True:
                    progress = await _next(coordinator, plan, seen, watcher)
                    seen, lost = progress.seen, None
                    watcher.news(progress)
                    if progress.status.state is not CampaignState.RUNNING:
                        records = await coordinator.records(plan.kernels)
                        return progress.status, plan.made(records)
        except FleetUnreachable as error:
            if not begun or (lost is not None and lost.passed):
                raise
            if lost is None:
                lost = Deadline.after(plan.patience_s)
                watcher.broken(error)
        await asyncio.sleep(RETRY_S)


async def _next(coordinator: Coordinator, plan: Plan, seen: int, watcher: Watcher) -> Progress:
    """Wait for news of a campaign, and show meanwhile what the hosts do."""
    if not watcher.needs_fleet:
        return await coordinator.follow(plan.id, seen)
    waiting = asyncio.ensure_future(coordinator.follow(plan.id, seen))
    try:
        while not waiting.done():
            watcher.fleet(await coordinator.status())
            await asyncio.wait({waiting}, timeout=REFRESH_S)
        return waiting.result()
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
