# SPDX-License-Identifier: BSD-3-Clause
"""kickbench fleet status."""

from __future__ import annotations

import asyncio
import signal

import click
import msgspec

from bench_lib import interrupt, present
from bench_lib.cli import options
from bench_lib.cli.fleet import options as fleet_options
from bench_lib.errors import FleetUnreachable, Interrupted, UsageError
from bench_lib.fleet import campaigns
from bench_lib.settings import Settings

WATCH_S = 2.0
"""The time between two looks of --watch. Hosts are not asked, only the coordinator."""


@click.command("status")
@options.as_json()
@click.option("--watch", is_flag=True, help="Show it until Ctrl-C, on a terminal.")
@fleet_options.coordinator()
def status(as_json: bool, watch: bool, settings: Settings) -> None:
    """Show the hosts and the campaigns of the fleet.

    Below the tables is what needs attention: why a host is set aside, what its doctor found, clocks
    that are wrong and versions that differ, and connections that were refused.

    \b
    Examples:
      kickbench fleet status --fleet lab1
      kickbench fleet status --watch
      kickbench fleet status --json
    """
    console = present.stdout()
    if not watch:
        found = interrupt.run(campaigns.status(settings))
        if as_json:
            click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        else:
            present.fleet_status(console, found)
        return
    if as_json or not console.is_terminal:
        raise UsageError("--watch needs a terminal, and cannot be combined with --json.")
    try:
        with present.fleet_live(console) as show:
            interrupt.run(_watch(settings, show))
    except Interrupted as error:
        if error.exit_status != 128 + signal.SIGINT:
            raise


async def _watch(settings: Settings, show: present.ShowFleet) -> None:
    """Show the fleet for ever; while the coordinator is restarted, as it was before.

    :raise FleetUnreachable: the coordinator could not be reached the first time.
    """
    shown = await campaigns.status(settings)
    show(shown, None)
    while True:
        await asyncio.sleep(WATCH_S)
        try:
            shown, problem = await campaigns.status(settings), None
        except FleetUnreachable as error:
            problem = str(error)
        show(shown, problem)
