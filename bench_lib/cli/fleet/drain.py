# SPDX-License-Identifier: BSD-3-Clause
"""kickbench fleet drain."""

from __future__ import annotations

import click

from bench_lib import interrupt
from bench_lib.cli.fleet import options
from bench_lib.fleet import campaigns
from bench_lib.settings import Settings


@click.command("drain")
@click.argument("host", metavar="HOST")
@click.option("--undo", is_flag=True, help="Give the host work again, also if it was set aside.")
@options.coordinator()
def drain(host: str, undo: bool, settings: Settings) -> None:
    """Give no more work to a host.

    The host finishes the boots that it is making. It stays out of use until this is undone, also
    if it leaves and joins again.

    \b
    Examples:
      kickbench fleet drain node1
      kickbench fleet drain node1 --undo
    """
    interrupt.run(_drain(settings, host, undo=undo))
    if undo:
        click.echo(f"{host} gets work again.")
    else:
        click.echo(f"{host} gets no new work; it finishes what it is making.")


async def _drain(settings: Settings, host: str, *, undo: bool) -> None:
    async with campaigns.connected(settings) as fleet:
        await fleet.drain(host, undo=undo)
