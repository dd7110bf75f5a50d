# SPDX-License-Identifier: BSD-3-Clause
"""kickbench fleet cancel."""

from __future__ import annotations

import click

from bench_lib import interrupt
from bench_lib.cli.fleet import options
from bench_lib.fleet import campaigns
from bench_lib.settings import Settings


@click.command("cancel")
@click.argument("campaign", metavar="ID")
@options.coordinator()
def cancel(campaign: str, settings: Settings) -> None:
    """End a campaign.

    Boots that are recorded are kept. Hosts are asked to end those that they are making.
    `kickbench fleet status` shows the ids of all campaigns.

    \b
    Example:
      kickbench fleet cancel 0123456789ab
    """
    interrupt.run(_cancel(settings, campaign))
    click.echo(f"Campaign {campaign} is cancelled; its records are kept.")


async def _cancel(settings: Settings, campaign: str) -> None:
    async with campaigns.connected(settings) as fleet:
        await fleet.cancel(campaign)
