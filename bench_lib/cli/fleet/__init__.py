# SPDX-License-Identifier: BSD-3-Clause
"""kickbench fleet: one campaign over many hosts."""

from __future__ import annotations

import click

from bench_lib.cli.fleet import ca, campaign, cancel, coordinator, drain, join, status


@click.group()
def fleet() -> None:
    """Measure on many hosts in one campaign.

    A coordinator gives boots to the hosts that have joined it, and keeps all records. All of them
    have certificates of one CA, and anyone who has one is root on every host.

    \b
    Examples:
      kickbench fleet ca ~/fleet --coordinator lab1 --host node1 --user anna
      kickbench fleet coordinator --certificates ~/fleet/coordinator
      kickbench fleet join lab1
      kickbench fleet status --watch
      kickbench fleet campaign debian/6.1 debian/6.12 --boots 6
    """


fleet.add_command(ca.ca)
fleet.add_command(coordinator.coordinator)
fleet.add_command(join.join)
fleet.add_command(status.status)
fleet.add_command(drain.drain)
fleet.add_command(campaign.campaign)
fleet.add_command(cancel.cancel)
