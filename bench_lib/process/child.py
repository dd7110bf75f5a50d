# SPDX-License-Identifier: BSD-3-Clause
"""A child process: wait for its end, do things while it lives, end it."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import IO, Any, TypeVar

from bench_lib.deadline import Deadline
from bench_lib.process.state import Survivor, survivor

_log = logging.getLogger(__name__)

T = TypeVar("T")

ATTENTIVE_S = 0.1
"""How long an answer that is timed is waited for with the event loop standing still. What comes
later may come by way of the loop, whose 0.3 ms are then less than one in three hundred."""

DEATH_LIMIT_S = 10.0
"""How long a killed process may take to be gone; milliseconds unless the kernel has a bug."""

DEATH_S = 0.5
"""How long the exit of a process may be behind the first sign of its death."""

TRACED_POLL_S = 0.005
"""Between two looks whether a dead process may be reaped, for which there is no event."""


class Ended(Exception):  # what happened, not an error of ours
    """A process ended. :ivar status: as in subprocess, negative for the signal that ended it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _exception(task: asyncio.Future[T]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


class Child:
    """A process of ours. Ended and reaped by `end()`, whatever state it is in.

    :ivar survivor: set by `end()` if the kernel did not let it die.
    """

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.survivor: Survivor | None = None
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        self.pid = popen.pid

    @property
    def stdin(self) -> IO[bytes]:
        assert self._popen.stdin is not None
        return self._popen.stdin

    @property
    def exit_status(self) -> int | None:
        """As in subprocess: None while it runs, negative for the signal that ended it."""
        return self._popen.poll()

    async def exited(self) -> int:
        """Wait for the end of the process; its exit status."""
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        # A duplicate, so that several can wait: a loop has one reader a descriptor.
        fd = os.dup(self._pidfd)
        loop.add_reader(fd, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        # One that another process traces is dead for us only when its tracer has let go of it.
        while (status := self._popen.poll()) is None:  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(TRACED_POLL_S)
        return status

    async def reaped(self, deadline: Deadline) -> int | None:
        """Wait until the process has ended and reap it.

        :return: when that was, in nanoseconds on the monotonic clock; None if the deadline passed.
        """
        # First with the event loop standing still, whose turns would be part of what is timed.
        if (at_ns := self.reaped_within(min(ATTENTIVE_S, deadline.remaining_s))) is not None:
            return at_ns
        try:
            async with asyncio.timeout(deadline.remaining_s):
                await self.exited()
        except TimeoutError:
            return None
        return time.monotonic_ns()

    def reaped_within(self, limit_s: float) -> int | None:
        """The same, blocking. :param limit_s: seconds that it may take."""
        deadline = Deadline.after(limit_s)
        if not select.select([self._pidfd], [], [], limit_s)[0]:
            return None
        if self._popen.poll() is None:  # dead, but another process traces it
            try:
                self._popen.wait(deadline.remaining_s)
            except subprocess.TimeoutExpired:
                return None
        return time.monotonic_ns()

    async def during(
        self, work: Coroutine[Any, Any, T], signs: tuple[type[Exception], ...] = ()
    ) -> T:
        """Do `work` for as long as the process lives. With one that is dead it does not begin.

        :param signs: what `work` may raise because the process is dying, before its exit is seen.
        :raise Ended: the process ended before the work was done.
        """
        if (status := self.exit_status) is not None:
            work.close()
            raise Ended(status)
        working = asyncio.ensure_future(work)
        exiting = asyncio.ensure_future(self.exited())
        try:
            await asyncio.wait({working, exiting}, return_when=asyncio.FIRST_COMPLETED)
            if working.done() and isinstance(_exception(working), signs):
                await asyncio.wait({exiting}, timeout=DEATH_S)
            # Asked, for the work may be done before the loop has looked at the pidfd.
            if (status := self.exit_status) is not None:
                raise Ended(status)
            return await working
        finally:
            for task in (working, exiting):
                task.cancel()
            await asyncio.gather(working, exiting, return_exceptions=True)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; to nobody, if the process is gone."""
        if self._popen.poll() is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def end(self) -> None:
        """Kill the process if it still runs, with all that it has started, and reap it.

        One that the kernel does not let die within `DEATH_LIMIT_S` is left to `kickbench clean`: a
        warning is logged, `survivor` says what it is, and `survivors()` lists it.
        """
        if self._popen.poll() is None:
            # It leads a group of its own, whose number is its pid until it is reaped.
            os.killpg(self.pid, signal.SIGKILL)
            if self.reaped_within(DEATH_LIMIT_S) is None:
                self.survivor = survivor(self.pid)
                _unreaped.append(self)
                _log.warning("Left to `kickbench clean`: %s.", self.survivor)
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        os.close(self._pidfd)


_unreaped: list[Child] = []
"""What could not be ended, for `survivors()`; and subprocess complains of what it forgets."""


def survivors() -> list[Survivor]:
    """Those of our processes that were killed and are still there."""
    return [survivor(child.pid) for child in _unreaped if child.exit_status is None]
