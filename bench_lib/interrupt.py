# SPDX-License-Identifier: BSD-3-Clause
"""Let a run clean up before a signal ends it.

A run also starts its programs with the default actions of these signals and of SIGQUIT, whatever it
was told to ignore: execve(2) resets a signal that has a handler, but not one that is ignored.
"""

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
    with _sigquit_handled():
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
        with _sigquit_handled():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _sigquit_handled() -> Iterator[None]:
    """Handle SIGQUIT by doing nothing, if we ignore it.

    A shell without job control makes its background jobs ignore SIGINT and SIGQUIT.
    """
    ignored = signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGQUIT, lambda *_: None)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGQUIT, signal.SIG_IGN)


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
