# SPDX-License-Identifier: BSD-3-Clause
"""Things that the coordinator does beside everything else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Iterable
from contextlib import suppress

_log = logging.getLogger(__name__)
_log.addHandler(logging.NullHandler())


class Background:
    """Owns tasks, and reports a defect that ends one of them."""

    def __init__(self, on_event: Callable[[str], None]) -> None:
        """:param on_event: called with a sentence about a task that failed."""
        self._say = on_event
        self._tasks: dict[asyncio.Task[None], Hashable] = {}

    def spawn(self, work: Awaitable[object], name: Hashable = None) -> None:
        """Do something beside everything else.

        :param name: the name by which `has` and `cancel` know it.
        """
        task = asyncio.create_task(_done(work))
        self._tasks[task] = name
        task.add_done_callback(self._finished)

    def has(self, name: Hashable) -> bool:
        """Whether something of this name is being done."""
        return name in self._tasks.values()

    async def cancel(self, name: Hashable) -> None:
        """Break off everything of this name, and wait for its end."""
        await broken_off([task for task, of in self._tasks.items() if of == name])

    async def stop(self) -> None:
        """Break off everything, and wait for its end."""
        await broken_off(list(self._tasks))

    def _finished(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("A task of the coordinator failed.", exc_info=error)
            self._say(f"This is a defect of kickbench, please report it: {error!r}")


async def _done(work: Awaitable[object]) -> None:
    await work


async def broken_off(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Break off tasks, and wait for their ends."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, Exception):
            await task
