# SPDX-License-Identifier: BSD-3-Clause
"""The connection of a command to the coordinator."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from bench_lib.fleet.status import FleetStatus
from bench_lib.settings import Settings

if TYPE_CHECKING:
    from bench_lib.fleet.client import FleetClient


def coordinator(settings: Settings) -> AbstractAsyncContextManager[FleetClient]:
    """Be connected to the coordinator that the settings name; see `FleetClient.connect`."""
    # Dask takes half a second to import, and is there only with the extra.
    from bench_lib.fleet.client import FleetClient

    assert settings.fleet is not None  # options.coordinator() has checked it
    return FleetClient.connect(settings.fleet, settings.certificates)


async def status(settings: Settings) -> FleetStatus:
    """What the coordinator knows of the fleet."""
    async with coordinator(settings) as fleet:
        return await fleet.status()
