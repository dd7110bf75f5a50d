# SPDX-License-Identifier: BSD-3-Clause
"""Let a run clean up before a signal ends it."""

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
"""The signals by which an operator ends a run."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do `work`. The first of `SIGNALS` cancels it; later ones are ignored.

    With asyncio's own handler a second Ctrl-C would abort the clean-up that the first one started.

    :raise Interrupted: one of the signals arrived.
    """
    return asyncio.run(_interruptible(work))


@contextmanager
def raised() -> Iterator[None]:
    """Make the first of `SIGNALS` raise in blocking code, wherever that is; ignore later ones.

    :raise Interrupted: one of the signals arrived.
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
