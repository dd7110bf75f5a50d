# SPDX-License-Identifier: BSD-3-Clause
"""A monotonic deadline, which is passed down instead of timeouts, and waits that respect it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from bench_lib.errors import BadDeadline, DeadlinePassed
from bench_lib.units import NS_PER_S

T = TypeVar("T")

LONGEST_S = 1e9
"""The longest duration, about 30 years. Records cannot hold much longer ones."""


def seconds(text: str) -> float:
    """Read a positive number of seconds.

    :raise BadDeadline: `text` is not a number, not above zero, or above `LONGEST_S`.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= LONGEST_S:
        raise BadDeadline(
            f"A deadline is a positive number of seconds, up to {LONGEST_S:.0f}, not {text!r}."
        )
    return value


@dataclass(frozen=True)
class Deadline:
    """A point in time.

    :ivar at_ns: nanoseconds on the monotonic clock.
    """

    at_ns: int

    @classmethod
    def after(cls, duration_s: float) -> Deadline:
        """Make a deadline that passes in `duration_s` seconds."""
        return cls(time.monotonic_ns() + round(duration_s * NS_PER_S))

    @property
    def remaining_s(self) -> float:
        """The seconds that are left, never below zero."""
        return max(0.0, (self.at_ns - time.monotonic_ns()) / NS_PER_S)

    @property
    def passed(self) -> bool:
        return time.monotonic_ns() >= self.at_ns

    async def wait_for(self, awaitable: Awaitable[T], what: str) -> T:
        """Wait for `awaitable`, and cancel it when the deadline passes.

        :param what: what is waited for, as the subject of the error, such as "The guest's pass".
        :raise DeadlinePassed: the deadline passed first.
        """
        try:
            async with asyncio.timeout(self.remaining_s):
                return await awaitable
        except TimeoutError:
            raise DeadlinePassed(f"{what} was not seen before the deadline.") from None

    async def poll(self, probe: Callable[[], T | None], what: str, interval_s: float = 0.001) -> T:
        """Call `probe` until it returns something other than None.

        Use this only where the kernel offers no event to wait for.

        :param what: what is waited for, as the subject of the error.
        :param interval_s: seconds between two calls.
        :raise DeadlinePassed: the deadline passed first.
        """
        while (found := probe()) is None:
            if self.passed:
                raise DeadlinePassed(f"{what} was not seen before the deadline.")
            await asyncio.sleep(interval_s)
        return found


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """Run several coroutines concurrently. If one fails, cancel the others and wait for their end.

    asyncio.gather() would leave the others running while the caller cleans up, and a TaskGroup
    would wrap the error in an exception group.
    """
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
