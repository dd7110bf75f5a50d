# SPDX-License-Identifier: BSD-3-Clause
"""Has signals end what runs in order."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from bench_lib.errors import Interrupted

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""By which an operator ends a run."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do `work`; the first SIGINT, SIGTERM or SIGHUP cancels it, and more change nothing.

    Left to asyncio a second Ctrl-C would break off the clean-up that the first has begun.

    :raise Interrupted: by one of those signals.
    """
    return asyncio.run(_interruptible(work))


@contextmanager
def raised() -> Iterator[None]:
    """The same for what blocks: the first of the signals raises wherever it finds it.

    :raise Interrupted: by one of those signals.
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number))

    before = {number: signal.signal(number, on_signal) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _interruptible(work: Coroutine[Any, Any, T]) -> T:
    received: list[signal.Signals] = []
    working = asyncio.ensure_future(work)

    def on_signal(number: signal.Signals) -> None:
        if not received:
            working.cancel()
        received.append(number)

    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        return await working
    except asyncio.CancelledError:
        raise Interrupted(received[0]) from None
