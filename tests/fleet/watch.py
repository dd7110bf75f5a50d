# SPDX-License-Identifier: BSD-3-Clause
"""Prints the status of a fleet, as JSON in a line, whenever it reads a line.

    python -m tests.fleet.watch ADDRESS CERTIFICATES

It prints `null` if the coordinator cannot be reached. `kickbench fleet status --json` prints the
same, but starting Python takes a second each time.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from bench_lib.errors import FleetUnreachable
from bench_lib.fleet.client import FleetClient
from bench_lib.fleet.status import FleetStatus


async def status(address: str, certificates: Path) -> FleetStatus | None:
    """The status of the fleet; None if its coordinator cannot be reached."""
    try:
        async with FleetClient.connect(address, certificates) as fleet:
            return await fleet.status()
    except FleetUnreachable:
        return None


async def main(address: str, certificates: str) -> None:
    """Answer each line of the input with a line."""
    while await asyncio.to_thread(sys.stdin.readline):
        found = await status(address, Path(certificates))
        sys.stdout.write(f"{msgspec.json.encode(found).decode()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
