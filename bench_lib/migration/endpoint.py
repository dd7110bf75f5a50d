# SPDX-License-Identifier: BSD-3-Clause
"""One side of a postcopy migration, as the events of its QEMU report it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from enum import Enum
from typing import Any, NoReturn

from bench_lib.deadline import Deadline
from bench_lib.errors import MigratedWhole, MigrationFailed, MonitorFailed, MonitorRefused
from bench_lib.guest.qemu import Guest


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
