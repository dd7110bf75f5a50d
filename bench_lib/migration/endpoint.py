# SPDX-License-Identifier: BSD-3-Clause
"""One side of a postcopy migration, as QEMU's events describe it."""

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
    """The state of a side, by QEMU's names (MigrationStatus in qapi/migration.json)."""

    NONE = "none"
    """No migration has started."""
    SETUP = "setup"
    ACTIVE = "active"
    """The migration is in precopy, and the guest runs at the source."""
    LOADING = "postcopy-device"
    """The source has sent the guest's device state, and the destination loads it. QEMU has this
    state since 10.2; before, the source was in POSTCOPY at that time."""
    POSTCOPY = "postcopy-active"
    """The guest runs at the destination, and the destination requests missing pages."""
    PAUSED = "postcopy-paused"
    """QEMU has noticed that the connection failed."""
    RECOVERING = "postcopy-recover"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    OTHER = ""
    """A state that is not named here. New QEMU releases add states between the existing ones, such
    as postcopy-recover-setup in 9.1, so an unknown state is not a failure."""

    @classmethod
    def _missing_(cls, value: object) -> Phase:
        return cls.OTHER


# For each phase, the phases from which a side can still reach it. A side in any other phase is
# reported at once, without waiting for the deadline.
_PRECOPY = frozenset({Phase.NONE, Phase.SETUP, Phase.ACTIVE})
_BROKEN = frozenset({Phase.PAUSED, Phase.RECOVERING})
_LEADS_TO: dict[Phase, frozenset[Phase]] = {
    Phase.POSTCOPY: _PRECOPY | _BROKEN | {Phase.LOADING},
    Phase.PAUSED: _PRECOPY | {Phase.LOADING, Phase.POSTCOPY, Phase.RECOVERING},
    Phase.COMPLETED: _BROKEN | {Phase.LOADING, Phase.POSTCOPY},
}


class Endpoint:
    """One side of a migration, from the events of its QEMU. Nothing is polled."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.phase = Phase.NONE
        self.phase_ns = 0
        """When this side entered `phase`, in nanoseconds of the monotonic clock."""
        self.passes = 0
        """How many passes over memory the source has started."""
        self.runs = not guest.incoming
        """Whether the guest runs on this side."""
        self._changed = asyncio.Condition()
        self._failure: Exception | None = None

    async def follow(self) -> None:
        """Read events for ever. An error is raised in the methods that wait for this side."""
        try:
            async for event in self.guest.control.events():
                async with self._changed:
                    self._take(event)
                    self._changed.notify_all()
        except Exception as error:  # noqa: BLE001  # _until() raises it
            async with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _take(self, event: Mapping[str, Any]) -> None:
        """Update this side with an event.

        :raise MonitorFailed: the event lacks a field that QEMU's schema requires.
        """
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
                f"{self.guest.name} sent an event that lacks a documented field "
                f"({type(error).__name__}: {error}): {event}."
            ) from None

    async def reaches(self, phase: Phase, deadline: Deadline) -> None:
        """Wait until this side is in `phase`.

        :raise MigrationFailed: this side is in a phase from which it cannot reach `phase`.
        :raise DeadlinePassed: the deadline passed first.
        """

        def there() -> bool:
            self._require(_LEADS_TO[phase] | {phase}, f"instead of {phase.value}")
            return self.phase is phase

        await self._until(there, f"State {phase.value} of {self.guest.name}", deadline)

    async def begins(self, deadline: Deadline) -> None:
        """Wait until the source has begun.

        :raise MigrationFailed: the migration ended before.
        """

        def there() -> bool:
            self._require(_PRECOPY, "at its start")
            return self.phase is not Phase.NONE

        await self._until(there, f"The beginning of the migration of {self.guest.name}", deadline)

    async def switches(self, deadline: Deadline) -> None:
        """Wait until the source has switched to postcopy, even if the destination has not yet.

        :raise MigrationFailed: the migration ended before the switch.
        """
        switched = {Phase.LOADING, Phase.POSTCOPY}

        def there() -> bool:
            self._require(_PRECOPY | switched, "at the switch")
            return self.phase in switched

        await self._until(there, f"The switch of {self.guest.name} to postcopy", deadline)

    async def continues(self, deadline: Deadline) -> None:
        """Wait until this side, which was paused, is in postcopy again or has completed."""
        await self._until(
            lambda: self.phase in {Phase.POSTCOPY, Phase.COMPLETED},
            f"The recovery of {self.guest.name}",
            deadline,
        )

    async def pauses(self, deadline: Deadline) -> None:
        """Pause the migration on this side, if it is not paused yet, and wait until it is."""
        if self.phase is Phase.POSTCOPY:
            # QEMU refuses this if it has paused by itself in the meantime.
            with suppress(MonitorRefused):
                await self.guest.control.execute(
                    "migrate-pause", deadline=deadline, out_of_band=True, may_refuse=True
                )
        await self.reaches(Phase.PAUSED, deadline)

    async def starts_pass(self, number: int, deadline: Deadline) -> None:
        """Wait until the source starts pass `number`, so that the passes before are complete.

        :raise MigrationFailed: the migration ended before that pass.
        """

        def there() -> bool:
            self._require(_PRECOPY, "in precopy")
            return self.passes >= number

        await self._until(there, f"Pass {number} of the migration", deadline)

    async def in_precopy(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` while the migration is in precopy.

        :raise MigrationFailed: the migration left precopy before the work was done.
        """

        async def left() -> NoReturn:
            async with self._changed:
                while True:
                    if self._failure is not None:
                        raise self._failure
                    self._require(_PRECOPY, "in precopy")
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

    def _require(self, allowed: frozenset[Phase], where: str) -> None:
        """Require that this side is in one of the `allowed` phases, or in an unknown one.

        :raise MigratedWhole: the migration has completed. QEMU completes a migration when little
            memory is dirty, which happens if a vCPU gets no CPU for some tenths of a second.
        :raise MigrationFailed: this side is in another phase.
        """
        if self.phase not in allowed | {Phase.OTHER}:
            kind = MigratedWhole if self.phase is Phase.COMPLETED else MigrationFailed
            raise kind(f"{self.guest.name} entered state {self.phase.value} {where}.")

    async def _until(self, there: Callable[[], bool], what: str, deadline: Deadline) -> None:
        def there_or_failed() -> bool:
            if self._failure is not None:
                raise self._failure
            return there()

        async with self._changed:
            await deadline.wait_for(self._changed.wait_for(there_or_failed), what)
