# SPDX-License-Identifier: BSD-3-Clause
import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_lib.deadline import Deadline, seconds, together
from bench_lib.errors import BadDeadline, DeadlinePassed


@pytest.mark.parametrize(
    "text", ["0", "-1", "nan", "inf", "-inf", "1e10", "1e300", "", "soon", "1s"]
)
def test_a_deadline_that_is_not_a_positive_number_is_refused(text: str) -> None:
    with pytest.raises(BadDeadline, match="positive number of seconds"):
        seconds(text)


@given(st.floats(min_value=1e-9, max_value=1e9))
def test_every_positive_number_is_a_deadline(value: float) -> None:
    assert seconds(repr(value)) == value


def test_a_wait_ends_with_its_deadline_and_cancels_what_it_waited_for() -> None:
    cancelled = []

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def main() -> None:
        with pytest.raises(DeadlinePassed, match="The reply"):
            await Deadline.after(0.001).wait_for(never(), "The reply")

    asyncio.run(main())
    assert cancelled


def test_polling_returns_the_first_thing_that_is_found() -> None:
    found = iter([None, None, "it"])
    assert asyncio.run(Deadline.after(60).poll(lambda: next(found), "it", 0)) == "it"


def test_polling_ends_with_its_deadline() -> None:
    with pytest.raises(DeadlinePassed, match="It was not seen"):
        asyncio.run(Deadline.after(0.001).poll(lambda: None, "It"))


def test_when_one_of_several_fails_the_others_have_ended() -> None:
    ended = []

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        asyncio.run(together(slow(), fail(), slow()))
    assert len(ended) == 2
