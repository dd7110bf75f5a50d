# SPDX-License-Identifier: BSD-3-Clause
"""A postcopy migration: the QMP commands that drive it, and the waits for what they cause."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from bench_lib.deadline import Deadline
from bench_lib.errors import DeadlinePassed
from bench_lib.guest.features import PREEMPT
from bench_lib.guest.image import MIB
from bench_lib.guest.qemu import Guest
from bench_lib.migration.endpoint import Endpoint, Phase
from bench_lib.record import Shape

T = TypeVar("T")

PORT = 4444
"""The port on which the destination listens, in a network namespace of its own."""

POSTCOPY_BANDWIDTH = 4096
"""How many bytes per second the source sends without being asked. QEMU's own tests of stuck
postcopy use this value: nearly all pages arrive only on request, so some are certainly missing when
the link is cut."""

LOOK_S = 0.001
"""Seconds between two queries of how many pages the source has sent. QEMU has no event for this."""

NOTICED_S = 2.0
"""Seconds that a destination may take to notice that the source has closed the connection. It takes
milliseconds, under emulation tenths of a second."""

PRECOPY_PER_SECOND = 5
"""The largest precopy bandwidth, in sizes of the guest's memory per second.

QEMU spends its bandwidth in slices of 100 ms, and looks for dirty memory only after the first slice
(BUFFER_DELAY and threshold_size in migration.c). A guest that fits into one slice would be migrated
completely. At this bandwidth a slice is half of the guest, and the first pass ends early in the
second slice.
"""

TURN_S = 0.004
"""Seconds for which a vCPU keeps a CPU of the host that other vCPUs wait for, about the kernel's
base_slice. During that time it dirties no more than its own share of memory."""


def precopy_bandwidth(shape: Shape, cpus: int) -> int:
    """Return the bandwidth of precopy, in bytes per second.

    If the guest dirtied memory more slowly than QEMU sends it, precopy would come to its end before
    it is told to slow down. A guest dirties all of its memory once in the time in which each vCPU
    has had a turn. So the first pass takes at least twice that time.

    :param cpus: how many CPUs of the host run the vCPUs.
    """
    turns_s = TURN_S * shape.vcpus / cpus
    return int(min(PRECOPY_PER_SECOND, 1 / (2 * turns_s)) * shape.memory_mib * MIB)


@dataclass(frozen=True)
class Migration:
    """A migration from a running guest to a guest that waits for a migration."""

    source: Endpoint
    destination: Endpoint

    @property
    def sides(self) -> tuple[Endpoint, Endpoint]:
        return self.source, self.destination

    @classmethod
    def between(cls, source: Guest, destination: Guest, stack: AsyncExitStack) -> Migration:
        """Make a migration and follow the events of both guests.

        :param stack: the exit stack that stops following them.
        """
        migration = cls(Endpoint(source), Endpoint(destination))
        for side in migration.sides:
            task = asyncio.create_task(side.follow())
            stack.callback(task.cancel)
        return migration

    @property
    def ends_source(self) -> bool:
        """Whether the manager ends the source's QEMU when the migration has completed."""
        return False

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` while both guests live.

        :raise GuestDied: a guest ended before the work was done.
        """
        return await self.source.guest.during(self.destination.guest.during(work))

    async def configure(self, address: str, shape: Shape, deadline: Deadline) -> None:
        """Set capabilities and parameters on both sides, and let the destination listen."""
        names = ["postcopy-ram", "events", *([PREEMPT] if shape.preempt else [])]
        for side in self.sides:
            await side.guest.control.execute(
                "migrate-set-capabilities",
                {"capabilities": [{"capability": name, "state": True} for name in names]},
                deadline=deadline,
            )
        await self.source.guest.control.execute(
            "migrate-set-parameters",
            {
                "max-bandwidth": precopy_bandwidth(shape, len(os.sched_getaffinity(0))),
                "max-postcopy-bandwidth": POSTCOPY_BANDWIDTH,
                # In milliseconds. With 1, QEMU never expects to send the rest within the downtime.
                # With 0 it would not look for dirty pages.
                "downtime-limit": 1,
            },
            deadline=deadline,
        )
        await self.destination.guest.control.execute(
            "migrate-incoming", {"uri": f"tcp:{address}:{PORT}"}, deadline=deadline
        )

    async def start(self, address: str, deadline: Deadline) -> None:
        """Migrate until every page that the guest no longer writes has arrived.

        On return the guest runs at the source. The pages that it writes are missing at the
        destination.

        :raise MigrationFailed: the migration ended first.
        """
        await self._start(address, deadline)
        # The second pass starts when the first one has sent every page once. Then code and page
        # tables are at the destination, and only pages that the guest dirtied since are missing.
        await self.source.starts_pass(2, deadline)
        await self._until_all_is_dirty(deadline)

    async def _start(self, address: str, deadline: Deadline) -> None:
        await self.source.guest.control.execute(
            "migrate", {"uri": f"tcp:{address}:{PORT}"}, deadline=deadline
        )

    async def send_state(self, deadline: Deadline) -> None:
        """Make the source switch to postcopy, and wait until it has sent the guest's state.

        After this, only missing pages have not been sent.

        :raise MigrationFailed: the migration ended first.
        """
        await self._start_postcopy(deadline)
        await self.source.switches(deadline)
        # postcopy_start() in QEMU holds the lock of the main loop, so that the answer comes after
        # the state has been sent.
        await self.source.guest.control.execute("query-status", deadline=deadline)

    async def _start_postcopy(self, deadline: Deadline) -> None:
        await self.source.guest.control.execute("migrate-start-postcopy", deadline=deadline)

    async def switch(self, deadline: Deadline) -> None:
        """Switch to postcopy, and wait until both sides are in it.

        :raise MigrationFailed: the migration ended first.
        """
        await self.send_state(deadline)
        for side in self.sides:
            await side.reaches(Phase.POSTCOPY, deadline)

    async def sends_pages(self, deadline: Deadline) -> None:
        """Wait until the source sends pages, which shows that it has finished the switch.

        At the end of the switch QEMU checks the connection. If the connection breaks before that,
        the migration fails ("Migration stream errored", postcopy_start() in QEMU 7.2). This wait
        takes up to 100 ms, one slice of QEMU's bandwidth.
        """
        sent = await self._pages_sent(deadline)
        while await self._pages_sent(deadline) == sent:
            if deadline.passed:
                raise DeadlinePassed("The source sent no page between the switch and the deadline.")
            await asyncio.sleep(LOOK_S)

    async def _pages_sent(self, deadline: Deadline) -> int:
        """Return how many pages the source has sent so far."""
        answer = await self.source.guest.control.execute("query-migrate", deadline=deadline)
        ram = answer["ram"]
        return int(ram["normal"]) + int(ram["duplicate"])

    async def _until_all_is_dirty(self, deadline: Deadline) -> None:
        """Throttle the source, and wait until each vCPU has written all of its memory once more.

        On a host with busy CPUs a vCPU may not have run for so long that every page it wrote has
        been sent. It would find no page missing at the destination, and never get stuck.
        """
        await self.source.guest.control.execute(
            "migrate-set-parameters", {"max-bandwidth": POSTCOPY_BANDWIDTH}, deadline=deadline
        )
        await self.source.in_precopy(self.source.guest.watch.rewritten(deadline))

    async def unthrottle(self, deadline: Deadline) -> None:
        """Undo the limit of `POSTCOPY_BANDWIDTH`: let the source send as fast as it can."""
        await self.source.guest.control.execute(
            "migrate-set-parameters", {"max-postcopy-bandwidth": 0}, deadline=deadline
        )

    async def pause(self, deadline: Deadline) -> None:
        """Pause the migration on both sides, if they are not paused yet.

        If the link works, the destination notices that the source has closed the connection, and
        pauses by itself. It gets the command only if it does not, because QEMU 7.2 can crash if the
        command arrives while QEMU notices by itself.
        """
        await self.source.pauses(deadline)
        try:
            await self.destination.reaches(Phase.PAUSED, Deadline.after(NOTICED_S))
        except DeadlinePassed:
            await self.destination.pauses(deadline)

    async def resume(self, address: str, attempt: int, deadline: Deadline) -> None:
        """Recover a migration that is paused on both sides; see "postcopy" in QEMU's docs/devel.

        :param attempt: the number of the attempt, from 1. Each attempt uses a port of its own.
        :raise MonitorRefused: a QEMU refused.
        """
        uri = f"tcp:{address}:{PORT + attempt}"
        await self.destination.guest.control.execute(
            "migrate-recover", {"uri": uri}, deadline=deadline, out_of_band=True, may_refuse=True
        )
        await self.source.guest.control.execute(
            "migrate", {"uri": uri, "resume": True}, deadline=deadline, may_refuse=True
        )

    async def continues(self, deadline: Deadline) -> None:
        """Wait until a migration that was paused sends pages again, or has completed.

        If the attempt fails, the source is paused again, and the next attempt can start.
        """
        await self.source.continues(deadline)

    async def completes(self, deadline: Deadline) -> int:
        """Wait until both sides have completed.

        :return: the time at which the later side had completed, in nanoseconds of the monotonic
            clock.
        """
        for side in self.sides:
            await side.reaches(Phase.COMPLETED, deadline)
        return max(side.phase_ns for side in self.sides)
