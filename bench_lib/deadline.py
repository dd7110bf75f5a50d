# SPDX-License-Identifier: BSD-3-Clause
"""One monotonic deadline, passed down instead of timeouts, and the waits that respect it."""

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
"""Thirty years; records hold no time that is much longer."""


def seconds(text: str) -> float:
    """Read a positive number of seconds.

    :raise BadDeadline: it is no number, not above zero, or above `LONGEST_S`.
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
    """A point on the monotonic clock, in nanoseconds."""

    at_ns: int

    @classmethod
    def after(cls, duration_s: float) -> Deadline:
        """:param duration_s: seconds from now."""
        return cls(time.monotonic_ns() + round(duration_s * NS_PER_S))

    @property
    def remaining_s(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, (self.at_ns - time.monotonic_ns()) / NS_PER_S)

    @property
    def passed(self) -> bool:
        return time.monotonic_ns() >= self.at_ns

    async def wait_for(self, awaitable: Awaitable[T], what: str) -> T:
        """Wait for `awaitable`, which is cancelled when the deadline passes.

        :param what: what is waited for, as in "the guest's first pass".
        :raise DeadlinePassed: it did not come in time.
        """
        try:
            async with asyncio.timeout(self.remaining_s):
                return await awaitable
        except TimeoutError:
            raise DeadlinePassed(f"{what} did not come before its deadline.") from None

    async def poll(self, probe: Callable[[], T | None], what: str, interval_s: float = 0.001) -> T:
        """Call `probe` until it gives something, for what the kernel has no event for.

        :param interval_s: seconds between two calls.
        :raise DeadlinePassed: it gave nothing in time.
        """
        while (found := probe()) is None:
            if self.passed:
                raise DeadlinePassed(f"{what} was not seen before its deadline.")
            await asyncio.sleep(interval_s)
        return found


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """Do several things side by side. When one fails, the others have ended before this raises.

    asyncio.gather() leaves them running, in the way of whoever cleans up; a TaskGroup hides the
    failure in a group of them.
    """
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
