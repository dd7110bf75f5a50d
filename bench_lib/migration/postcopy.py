# SPDX-License-Identifier: BSD-3-Clause
"""A postcopy migration: its two sides, and the commands that drive it."""

from __future__ import annotations

import asyncio
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
"""Of the destination; it has a network namespace of its own."""

POSTCOPY_BANDWIDTH = 4096
"""Bytes a second that the source pushes on its own. QEMU's own tests of stuck postcopy use it:
pages come only when they are asked for, so some are surely missing when the link is cut."""

LOOK_S = 0.001
"""Between two looks at what the source has sent, for which there is no event."""

FOLLOWS_S = 2.0
"""How long a destination may take to notice that the source has given the connection up; it takes
milliseconds, and under emulation tenths of a second."""

PRECOPY_PER_SECOND = 5
"""How many times its memory the source may send a second before postcopy.

QEMU spends its bandwidth in slices of 100 ms, and looks at what has become dirty meanwhile only
after the first (migration.c: BUFFER_DELAY, threshold_size). A guest that fits into one slice
would be migrated whole. So a slice is half of the guest: the first pass ends early in the second.
"""


@dataclass(frozen=True)
class Migration:
    """From a running guest to one that waits for it."""

    source: Endpoint
    destination: Endpoint

    @property
    def sides(self) -> tuple[Endpoint, Endpoint]:
        return self.source, self.destination

    @classmethod
    def between(cls, source: Guest, destination: Guest, stack: AsyncExitStack) -> Migration:
        """:param stack: ends the following of events."""
        migration = cls(Endpoint(source), Endpoint(destination))
        for side in migration.sides:
            task = asyncio.create_task(side.follow())
            stack.callback(task.cancel)
        return migration

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` for as long as both guests live.

        :raise GuestDied: one did not.
        """
        return await self.source.guest.during(self.destination.guest.during(work))

    async def configure(self, address: str, shape: Shape, deadline: Deadline) -> None:
        """Tell both sides what is to come, and let the destination listen on `address`."""
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
                "max-bandwidth": PRECOPY_PER_SECOND * shape.memory_mib * MIB,
                "max-postcopy-bandwidth": POSTCOPY_BANDWIDTH,
                # The least that makes QEMU look for dirty pages, so that it never thinks that
                # the rest can be sent in the downtime allowed (with 0 it does not look).
                "downtime-limit": 1,
            },
            deadline=deadline,
        )
        await self.destination.guest.control.execute(
            "migrate-incoming", {"uri": f"tcp:{address}:{PORT}"}, deadline=deadline
        )

    async def begin(self, address: str, deadline: Deadline) -> None:
        """Migrate until all that the guest does not write any more has arrived.

        On return the guest runs at the source, and what it writes is missing at the destination.

        :raise MigrationFailed: the migration ended first.
        """
        source = self.source.guest.control
        await source.execute("migrate", {"uri": f"tcp:{address}:{PORT}"}, deadline=deadline)
        # The second pass begins when the first has sent every page once: code and page tables
        # are at the destination, and only what the guest has dirtied since will be missing.
        await self.source.begins_pass(2, deadline)
        await self._until_all_is_dirty(deadline)

    async def send_state(self, deadline: Deadline) -> None:
        """Have the source switch over, until it has sent all but the pages that are missing.

        :raise MigrationFailed: the migration ended first.
        """
        source = self.source.guest.control
        await source.execute("migrate-start-postcopy", deadline=deadline)
        await self.source.switches(deadline)
        # Its main loop is locked meanwhile (postcopy_start() in QEMU), and answers afterwards.
        await source.execute("query-status", deadline=deadline)

    async def switch(self, deadline: Deadline) -> None:
        """Switch over, until both sides are in postcopy.

        :raise MigrationFailed: the migration ended first.
        """
        await self.send_state(deadline)
        for side in self.sides:
            await side.reaches(Phase.POSTCOPY, deadline)

    async def sends_pages(self, deadline: Deadline) -> None:
        """Wait until the source sends pages, and so has done with the switch.

        The last of the switch is a look at the connection: one that breaks before fails the
        migration (postcopy_start() in QEMU 7.2: "Migration stream errored"). It takes up to 100 ms,
        a slice of QEMU's bandwidth.
        """
        sent = await self._pages_sent(deadline)
        while await self._pages_sent(deadline) == sent:
            if deadline.passed:
                raise DeadlinePassed("The source sent no page after the switch in time.")
            await asyncio.sleep(LOOK_S)

    async def _pages_sent(self, deadline: Deadline) -> int:
        """How many pages the source has sent so far."""
        answer = await self.source.guest.control.execute("query-migrate", deadline=deadline)
        ram = answer["ram"]
        return int(ram["normal"]) + int(ram["duplicate"])

    async def _until_all_is_dirty(self, deadline: Deadline) -> None:
        """Send nothing more until each vCPU has written all of its memory once more.

        Where processors are shared, one may not have run for so long that all it had written was
        sent meanwhile: it would find nothing missing, and never be stuck.
        """
        await self.source.guest.control.execute(
            "migrate-set-parameters", {"max-bandwidth": POSTCOPY_BANDWIDTH}, deadline=deadline
        )
        await self.source.in_precopy(self.source.guest.watch.rewritten(deadline))

    async def unthrottle(self, deadline: Deadline) -> None:
        """Let the source push pages as fast as it can; see `POSTCOPY_BANDWIDTH`."""
        await self.source.guest.control.execute(
            "migrate-set-parameters", {"max-postcopy-bandwidth": 0}, deadline=deadline
        )

    async def pause(self, deadline: Deadline) -> None:
        """Have both sides give up the connection, where they have not.

        The destination follows the source where it can hear of it. Only one that cannot is told
        so: QEMU 7.2 can crash if it is while it notices by itself.
        """
        await self.source.gives_up(deadline)
        try:
            await self.destination.reaches(Phase.PAUSED, Deadline.after(FOLLOWS_S))
        except DeadlinePassed:
            await self.destination.gives_up(deadline)

    async def resume(self, address: str, attempt: int, deadline: Deadline) -> None:
        """Go on with a migration that is paused on both sides; see docs/devel of QEMU, postcopy.

        :param attempt: from 1; each has a port of its own.
        :raise MonitorRefused: a side does not want to.
        """
        uri = f"tcp:{address}:{PORT + attempt}"
        await self.destination.guest.control.execute(
            "migrate-recover", {"uri": uri}, deadline=deadline, out_of_band=True, may_refuse=True
        )
        await self.source.guest.control.execute(
            "migrate", {"uri": uri, "resume": True}, deadline=deadline, may_refuse=True
        )

    async def goes_on(self, deadline: Deadline) -> None:
        """Wait until a paused migration sends again, or already has sent all.

        A side whose attempt fails is paused again, from where the next attempt begins.
        """
        await self.source.sends_again(deadline)

    async def completes(self, deadline: Deadline) -> int:
        """Wait until both sides have completed; when they had, monotonic nanoseconds."""
        for side in self.sides:
            await side.reaches(Phase.COMPLETED, deadline)
        return max(side.phase_ns for side in self.sides)
