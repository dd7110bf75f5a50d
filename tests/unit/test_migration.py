# SPDX-License-Identifier: BSD-3-Clause
import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bench_lib.deadline import Deadline
from bench_lib.errors import MigrationFailed, MonitorFailed
from bench_lib.migration import Phase, Side


def test_a_state_that_qemu_adds_is_no_reason_to_stop() -> None:
    assert Phase("postcopy-device") is Phase.OTHER


def test_states_are_qemus_own_names() -> None:
    assert Phase("postcopy-paused") is Phase.PAUSED


class _Guest:
    """A guest that sends these events and no more."""

    name = "the guest"
    incoming = False

    def __init__(self, *events: dict[str, object]) -> None:
        self.control = self
        self._events = events

    async def events(self) -> AsyncIterator[dict[str, object]]:
        for event in self._events:
            yield event
        await asyncio.Event().wait()


def _reach(side: Side, phase: Phase) -> None:
    """Wait until `side` is in `phase`, as a trial does."""

    async def main() -> None:
        following = asyncio.create_task(side.follow())
        try:
            await side.reaches(phase, Deadline.after(60))
        finally:
            following.cancel()

    asyncio.run(main())


def test_an_event_that_is_not_understood_is_raised_where_the_side_is_waited_for() -> None:
    guest: Any = _Guest({"event": "MIGRATION", "data": {}})
    with pytest.raises(MonitorFailed, match=r"the guest sent an event that lacks .*'status'"):
        _reach(Side(guest), Phase.POSTCOPY)


def test_a_side_that_goes_where_there_is_no_way_back_is_reported() -> None:
    guest: Any = _Guest({"event": "MIGRATION", "data": {"status": "failed"}})
    with pytest.raises(MigrationFailed, match="the guest went to failed instead of"):
        _reach(Side(guest), Phase.POSTCOPY)


def test_a_side_reaches_what_its_events_say() -> None:
    guest: Any = _Guest(
        {"event": "MIGRATION", "data": {"status": "active"}},
        {"event": "MIGRATION", "data": {"status": "postcopy-active"}},
    )
    _reach(Side(guest), Phase.POSTCOPY)
