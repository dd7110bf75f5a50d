# SPDX-License-Identifier: BSD-3-Clause
"""Have campaigns carried out by the fleet, and wait for their end.

Dask is imported only when the fleet is asked, because it takes longer than most commands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from bench_lib import record
from bench_lib.errors import FleetError, FleetUnreachable, UsageError
from bench_lib.fleet.bundle import require_extra
from bench_lib.fleet.plan import Plan
from bench_lib.fleet.status import CampaignState, CampaignStatus, FleetStatus
from bench_lib.kernel import guest
from bench_lib.record import Record
from bench_lib.settings import Settings

if TYPE_CHECKING:
    from bench_lib.fleet.client import FleetClient

T = TypeVar("T")

PATIENCE_S = 300.0
"""Seconds until a coordinator that cannot be reached any more is given up. If it is restarted, it
goes on with all campaigns."""

AGAIN_S = 2.0
"""Seconds between two attempts to reach it."""

CANCEL_S = 5.0
"""Seconds that the coordinator has to cancel a campaign when a signal ends the command."""


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[FleetClient]:
    """Be connected to the coordinator that the settings name.

    :raise FleetMissing: kickbench was installed without what a fleet needs.
    :raise UsageError: the settings name no coordinator.
    :raise CertificateUnusable: the certificate cannot be used.
    """
    require_extra()
    if settings.fleet is None:
        raise UsageError(
            "The address of the coordinator is not known; set KICKBENCH_FLEET to HOST or HOST:PORT."
        )
    from bench_lib.fleet.client import FleetClient

    async with FleetClient.connect(settings.fleet, settings.certificates) as fleet:
        yield fleet


async def status(settings: Settings) -> FleetStatus:
    """Return what the coordinator knows of the fleet; see `connected`."""
    async with connected(settings) as fleet:
        return await fleet.status()


def settings_for_hosts(settings: Settings) -> dict[str, str]:
    """Return what the processes that make the trials have to know of this user's settings.

    A path of this machine is not among them, because it may be something else on a host.
    """
    found = {"KICKBENCH_STAGING": f"{settings.staging_s:g}"}
    if settings.deadline_given:
        found["KICKBENCH_DEADLINE"] = f"{settings.deadline_s:g}"
    if not guest.is_path(settings):
        found["KICKBENCH_GUEST_KERNEL"] = settings.guest_kernel
    return found


async def carry_out(
    fleet: FleetClient,
    plan: Plan,
    on_record: Callable[[Record], None],
    on_news: Callable[[CampaignStatus], None] = lambda status: None,
) -> CampaignStatus:
    """Submit a campaign, wait until it has ended, and return what has become of it.

    If this is cancelled, the campaign is cancelled as well. Its records are kept, and the same plan
    goes on with it.

    :param on_record: called with each record that the coordinator has kept.
    :param on_news: called at least every ten seconds while the coordinator can be reached.
    :raise UnknownHost: the fleet has no host of a name in the plan.
    :raise FleetRefused: the plan cannot be carried out.
    :raise FleetUnreachable: the coordinator cannot be reached, and not even after `PATIENCE_S`.
    """
    status = await fleet.submit(plan)
    seen = status.trials
    try:
        while True:
            progress = await _patiently(lambda: fleet.follow(plan.id, seen))  # noqa: B023
            seen = progress.seen
            for line in progress.lines:
                on_record(record.from_line(line))
            on_news(progress.status)
            if progress.status.state is not CampaignState.RUNNING:
                return progress.status
    except asyncio.CancelledError:
        with suppress(FleetError, TimeoutError):
            async with asyncio.timeout(CANCEL_S):
                await fleet.cancel(plan.id)
        raise


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask the coordinator, again and again if it cannot be reached.

    :raise FleetUnreachable: it could not be reached for `PATIENCE_S`.
    """
    since = time.monotonic()
    while True:
        try:
            return await ask()
        except FleetUnreachable:
            if time.monotonic() - since > PATIENCE_S:
                raise
            await asyncio.sleep(AGAIN_S)
