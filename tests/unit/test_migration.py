# SPDX-License-Identifier: BSD-3-Clause
import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from bench_lib.deadline import Deadline
from bench_lib.errors import MigratedWhole, MigrationFailed, MonitorFailed
from bench_lib.migration import Endpoint, Phase
from bench_lib.migration.postcopy import precopy_bandwidth
from bench_lib.record import Shape


def test_an_unknown_migration_state_is_not_a_failure() -> None:
    assert Phase("postcopy-recover-setup") is Phase.OTHER


@pytest.mark.parametrize(
    ("vcpus", "cpus", "mib_per_second"), [(1, 2, 80), (2, 2, 80), (64, 2, 62.5), (255, 1, 7.84)]
)
def test_precopy_is_slower_than_vcpus_that_share_cpus_dirty_memory(
    vcpus: int, cpus: int, mib_per_second: float
) -> None:
    found = precopy_bandwidth(Shape(vcpus=vcpus, memory_mib=16), cpus) / (1 << 20)
    assert found == pytest.approx(mib_per_second, rel=0.01)


class _Guest:
    """A guest that sends these events, and no others."""

    name = "the guest"
    incoming = False

    def __init__(self, *events: dict[str, object]) -> None:
        self.control = self
        self._events = events

    async def events(self) -> AsyncIterator[dict[str, object]]:
        for event in self._events:
            yield event
        await asyncio.Event().wait()


def _wait(side: Endpoint, wait: Callable[[Deadline], Coroutine[Any, Any, None]]) -> None:
    """Wait for what `side` does, as a trial does."""

    async def main() -> None:
        following = asyncio.create_task(side.follow())
        try:
            await wait(Deadline.after(60))
        finally:
            following.cancel()

    asyncio.run(main())


def _reach(side: Endpoint, phase: Phase) -> None:
    """Wait until `side` is in `phase`."""
    _wait(side, lambda deadline: side.reaches(phase, deadline))


def _states(*names: str) -> Endpoint:
    """A side of a migration that goes through these states."""
    events: list[dict[str, object]] = [
        {"event": "MIGRATION", "data": {"status": each}} for each in names
    ]
    guest: Any = _Guest(*events)
    return Endpoint(guest)


def test_an_event_without_a_status_fails_the_wait() -> None:
    guest: Any = _Guest({"event": "MIGRATION", "data": {}})
    with pytest.raises(MonitorFailed, match=r"the guest sent an event that lacks .*'status'"):
        _reach(Endpoint(guest), Phase.POSTCOPY)


def test_a_side_that_cannot_reach_the_phase_any_more_fails_the_wait() -> None:
    guest: Any = _Guest({"event": "MIGRATION", "data": {"status": "failed"}})
    with pytest.raises(MigrationFailed, match="the guest entered state failed instead of"):
        _reach(Endpoint(guest), Phase.POSTCOPY)


async def _for_ever() -> None:
    await asyncio.Event().wait()


def test_a_migration_that_completes_early_has_another_error_than_one_that_fails() -> None:
    """A guest that got no CPU time has dirtied nothing, so QEMU completes the migration."""
    for status, error in (("completed", MigratedWhole), ("failed", MigrationFailed)):
        side = _states("active", status)
        with pytest.raises(
            MigrationFailed, match=f"the guest entered state {status} in precopy"
        ) as said:
            _wait(side, lambda deadline, side=side: side.in_precopy(_for_ever()))  # type: ignore[misc]
        assert type(said.value) is error


def test_work_in_precopy_is_done_while_the_side_is_active() -> None:
    done = []

    async def work() -> None:
        done.append(True)

    side = _states("setup", "active")
    _wait(side, lambda deadline: side.in_precopy(work()))
    assert done


def test_an_error_of_the_work_in_precopy_is_raised() -> None:
    async def work() -> None:
        raise MonitorFailed("its own failure")

    side = _states("active")
    with pytest.raises(MonitorFailed, match="its own failure"):
        _wait(side, lambda deadline: side.in_precopy(work()))


def test_a_side_reaches_the_phase_of_its_events() -> None:
    guest: Any = _Guest(
        {"event": "MIGRATION", "data": {"status": "active"}},
        {"event": "MIGRATION", "data": {"status": "postcopy-active"}},
    )
    _reach(Endpoint(guest), Phase.POSTCOPY)


@pytest.mark.parametrize("state", ["postcopy-device", "postcopy-active"])
def test_a_source_has_switched_whether_or_not_the_destination_has_loaded_the_state(
    state: str,
) -> None:
    side = _states("active", "device", state)
    _wait(side, side.switches)


def test_a_source_that_fails_at_the_switch_is_reported() -> None:
    side = _states("active", "failed")
    with pytest.raises(MigrationFailed, match="the guest entered state failed at the switch"):
        _wait(side, side.switches)


@pytest.mark.parametrize("phase", [Phase.POSTCOPY, Phase.PAUSED])
def test_a_side_continues_once_the_destination_has_loaded_the_state(phase: Phase) -> None:
    _reach(_states("postcopy-device", "postcopy-active", phase.value), phase)
