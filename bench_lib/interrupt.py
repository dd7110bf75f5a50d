"""Runs a coroutine that a signal ends in order."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from bench_lib.errors import Interrupted

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do `work`; the first SIGINT, SIGTERM or SIGHUP cancels it, and more change nothing.

    Left to asyncio a second Ctrl-C would break off the clean-up that the first has begun.

    :raise Interrupted: by one of those signals.
    """
    return asyncio.run(_interruptible(work))


async def _interruptible(work: Coroutine[Any, Any, T]) -> T:
    received: list[signal.Signals] = []
    working = asyncio.ensure_future(work)

    def on_signal(number: signal.Signals) -> None:
        if not received:
            working.cancel()
        received.append(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal, number)
    try:
        return await working
    except asyncio.CancelledError:
        raise Interrupted(received[0]) from None
