# SPDX-License-Identifier: BSD-3-Clause
"""A pair of guests, the states of a postcopy migration between them, and who runs them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, NoReturn, Protocol, TypeVar

from bench_lib.deadline import Deadline
from bench_lib.errors import (
    DeadlinePassed,
    MigratedWhole,
    MigrationFailed,
    MonitorFailed,
    MonitorRefused,
)
from bench_lib.guest import qemu
from bench_lib.guest.features import PREEMPT
from bench_lib.guest.image import MIB
from bench_lib.guest.qemu import Guest, GuestConfig
from bench_lib.ownership import Run
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


class Phase(Enum):
    """A side's state, by QEMU's name for it (qapi/migration.json, MigrationStatus)."""

    NONE = "none"
    """No migration has begun."""
    SETUP = "setup"
    ACTIVE = "active"
    """Precopy: the guest runs at the source."""
    LOADING = "postcopy-device"
    """The source has sent the guest's state, and the destination loads it. From QEMU 10.2 on; the
    source was in POSTCOPY meanwhile before."""
    POSTCOPY = "postcopy-active"
    """The guest runs at the destination and asks for its missing pages."""
    PAUSED = "postcopy-paused"
    """The connection has failed and QEMU knows it."""
    RECOVERING = "postcopy-recover"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    OTHER = ""
    """A state that is not named here. QEMU adds some from time to time, between those that are
    (postcopy-recover-setup in 9.1), so such a state is not a failure."""

    @classmethod
    def _missing_(cls, value: object) -> Phase:
        return cls.OTHER


# From where a side can still come to a phase. A side that has gone where there is no way back
# is reported at once instead of being waited for.
_PRECOPY = frozenset({Phase.NONE, Phase.SETUP, Phase.ACTIVE})
_BROKEN = frozenset({Phase.PAUSED, Phase.RECOVERING})
_WAYS: dict[Phase, frozenset[Phase]] = {
    Phase.POSTCOPY: _PRECOPY | _BROKEN | {Phase.LOADING},
    Phase.PAUSED: _PRECOPY | {Phase.LOADING, Phase.POSTCOPY, Phase.RECOVERING},
    Phase.COMPLETED: _BROKEN | {Phase.LOADING, Phase.POSTCOPY},
}


class Endpoint:
    """What one QEMU has said of the migration. Fed by its events, so nothing is polled."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.phase = Phase.NONE
        self.phase_ns = 0
        """Since when, on the monotonic clock, nanoseconds."""
        self.passes = 0
        """Passes over memory that the source has begun."""
        self.runs = not guest.incoming
        """Whether the guest runs on this side."""
        self._changed = asyncio.Condition()
        self._failure: Exception | None = None

    async def follow(self) -> None:
        """Take in events for ever. Whatever goes wrong is raised where this side is waited for."""
        try:
            async for event in self.guest.control.events():
                async with self._changed:
                    self._take(event)
                    self._changed.notify_all()
        except Exception as error:  # noqa: BLE001  # raised by _until
            async with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _take(self, event: Mapping[str, Any]) -> None:
        """:raise MonitorFailed: the event is not what QEMU's schema says."""
        try:
            data = event.get("data", {})
            match event["event"]:
                case "MIGRATION":
                    self.phase = Phase(data["status"])
                    self.phase_ns = time.monotonic_ns()
                case "MIGRATION_PASS":
                    self.passes = int(data["pass"])
                case "RESUME":
                    self.runs = True
                case "STOP":
                    self.runs = False
        except (KeyError, TypeError, ValueError) as error:
            raise MonitorFailed(
                f"{self.guest.name} sent an event that lacks what QEMU documents "
                f"({type(error).__name__}: {error}): {event}."
            ) from None

    async def reaches(self, phase: Phase, deadline: Deadline) -> None:
        """Wait until this side is in `phase`.

        :raise MigrationFailed: it has gone where that cannot be reached from.
        :raise DeadlinePassed: it is not there in time.
        """

        def there() -> bool:
            self._check_way(_WAYS[phase] | {phase}, f"instead of {phase.value}")
            return self.phase is phase

        await self._until(there, f"{phase.value} of {self.guest.name}", deadline)

    async def switches(self, deadline: Deadline) -> None:
        """Wait until the source has switched over, whether or not the destination has followed.

        :raise MigrationFailed: the migration ended before.
        """
        switched = {Phase.LOADING, Phase.POSTCOPY}

        def there() -> bool:
            self._check_way(_PRECOPY | switched, "at the switch")
            return self.phase in switched

        await self._until(there, f"The switch of {self.guest.name}", deadline)

    async def sends_again(self, deadline: Deadline) -> None:
        """Wait until this side, which was paused, is in postcopy again or has completed."""
        await self._until(
            lambda: self.phase in {Phase.POSTCOPY, Phase.COMPLETED},
            f"The recovery of {self.guest.name}",
            deadline,
        )

    async def gives_up(self, deadline: Deadline) -> None:
        """Pause the migration on this side, unless it is."""
        if self.phase is Phase.POSTCOPY:
            # Refused by a side that has given up by itself meanwhile.
            with suppress(MonitorRefused):
                await self.guest.control.execute(
                    "migrate-pause", deadline=deadline, out_of_band=True, may_refuse=True
                )
        await self.reaches(Phase.PAUSED, deadline)

    async def begins_pass(self, number: int, deadline: Deadline) -> None:
        """Wait until the source begins its pass `number`; the ones before are then complete.

        :raise MigrationFailed: the migration ended before.
        """

        def there() -> bool:
            self._check_way(_PRECOPY, "in precopy")
            return self.passes >= number

        await self._until(there, f"Pass {number} of the migration", deadline)

    async def in_precopy(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` for as long as the guest is in precopy at the source.

        :raise MigrationFailed: it is not any more.
        """

        async def left() -> NoReturn:
            async with self._changed:
                while True:
                    if self._failure is not None:
                        raise self._failure
                    self._check_way(_PRECOPY, "in precopy")
                    await self._changed.wait()

        working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(left())
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            await (leaving if leaving.done() else working)
        finally:
            for task in (working, leaving):
                task.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)

    async def resumes(self, deadline: Deadline) -> None:
        """Wait until the guest runs on this side."""
        await self._until(lambda: self.runs, f"The start of {self.guest.name}", deadline)

    def _check_way(self, allowed: frozenset[Phase], where: str) -> None:
        """Refuse any other phase, except an unknown one.

        :raise MigratedWhole: the migration is complete. QEMU completes it when little is dirty, and
            that is so where a vCPU gets no CPU for some tenths of a second.
        :raise MigrationFailed: this side is in another phase.
        """
        if self.phase not in allowed | {Phase.OTHER}:
            kind = MigratedWhole if self.phase is Phase.COMPLETED else MigrationFailed
            raise kind(f"{self.guest.name} went to {self.phase.value} {where}.")

    async def _until(self, there: Callable[[], bool], what: str, deadline: Deadline) -> None:
        def there_or_failed() -> bool:
            if self._failure is not None:
                raise self._failure
            return there()

        async with self._changed:
            await deadline.wait_for(self._changed.wait_for(there_or_failed), what)


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


class Manager(Protocol):
    """Who starts guests and migrates them."""

    async def start(self, config: GuestConfig, deadline: Deadline, stack: AsyncExitStack) -> Guest:
        """Start a guest and connect to it.

        :param stack: ends it.
        :raise GuestDied: it ended at once; the last words of QEMU are in the message.
        """

    def migrate(self, source: Guest, destination: Guest, stack: AsyncExitStack) -> Migration:
        """Prepare a migration from a running guest to one that waits for it.

        :param stack: ends the following of events.
        """


class QemuManager:
    """QEMU alone, told by QMP what to do."""

    def __init__(self, run: Run) -> None:
        """:param run: which the guests belong to."""
        self._run = run

    async def start(self, config: GuestConfig, deadline: Deadline, stack: AsyncExitStack) -> Guest:
        return await stack.enter_async_context(qemu.started(self._run, config, deadline))

    def migrate(self, source: Guest, destination: Guest, stack: AsyncExitStack) -> Migration:
        return Migration.between(source, destination, stack)
