# SPDX-License-Identifier: BSD-3-Clause
"""A child process: waiting for its end, doing work while it lives, and ending it."""

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
from typing import IO, Any, Protocol, TypeVar

from bench_lib.deadline import Deadline
from bench_lib.process.state import Survivor, survivor

_log = logging.getLogger(__name__)

T = TypeVar("T")

ATTENTIVE_S = 0.1
"""How many seconds to wait for a timed answer without the event loop. Later answers come through
the event loop, which adds 0.3 ms: less than 1/300 of such a latency."""

DEATH_LIMIT_S = 10.0
"""Seconds that a killed process may take to end. It takes milliseconds, unless the kernel has a
bug."""

DEATH_S = 0.5
"""Seconds that may pass between the first sign of a process's death and its exit."""

TRACED_POLL_S = 0.005
"""Seconds between two tries to reap a dead process that another process traces. The kernel has no
event for the end of the tracing."""


class Ended(Exception):  # an event, which the caller turns into an error of the error tree
    """A process ended.

    :ivar status: the exit status, or the negative number of the signal that ended the process.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _exception(task: asyncio.Future[T]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


class Waitable(Protocol):
    """What `Child` needs of a process: the part of subprocess.Popen that reaps it."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None
    stderr: IO[bytes] | None

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


class Child:
    """A child process. `end()` kills and reaps it in any state.

    :ivar survivor: set by `end()` if the process did not die; None otherwise.
    """

    def __init__(self, popen: Waitable) -> None:
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
        """None while the process runs, else its exit status; -N if signal N ended it."""
        return self._popen.poll()

    async def exited(self) -> int:
        """Wait for the end of the process and return its exit status."""
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        # A duplicate, because an event loop has only one reader per descriptor, and several
        # callers may wait at once.
        fd = os.dup(self._pidfd)
        loop.add_reader(fd, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        # A dead process that another process traces can be reaped only after the tracer detaches.
        while (status := self._popen.poll()) is None:  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(TRACED_POLL_S)
        return status

    async def reaped(self, deadline: Deadline) -> int | None:
        """Wait until the process has ended, and reap it.

        :return: the time of the end, in nanoseconds of the monotonic clock; None if the deadline
            passed.
        """
        # Block first: iterations of the event loop would add to the latency that is measured.
        if (at_ns := self.reaped_within(min(ATTENTIVE_S, deadline.remaining_s))) is not None:
            return at_ns
        try:
            async with asyncio.timeout(deadline.remaining_s):
                await self.exited()
        except TimeoutError:
            return None
        return time.monotonic_ns()

    def reaped_within(self, limit_s: float) -> int | None:
        """Block until the process has ended, and reap it.

        :param limit_s: seconds to wait.
        :return: the time of the end, in nanoseconds of the monotonic clock; None if the process has
            not ended within the limit.
        """
        deadline = Deadline.after(limit_s)
        if not select.select([self._pidfd], [], [], limit_s)[0]:
            return None
        if self._popen.poll() is None:  # it is dead, but another process traces it
            try:
                self._popen.wait(deadline.remaining_s)
            except subprocess.TimeoutExpired:
                return None
        return time.monotonic_ns()

    async def during(
        self, work: Coroutine[Any, Any, T], signs: tuple[type[Exception], ...] = ()
    ) -> T:
        """Do `work` while the process lives. If the process is dead already, do not start it.

        :param signs: errors that `work` may raise because the process is dying. After one of them
            this waits a moment for the exit of the process.
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
            # Read the status, because the work may finish before the loop has seen the pidfd.
            if (status := self.exit_status) is not None:
                raise Ended(status)
            return await working
        finally:
            for task in (working, exiting):
                task.cancel()
            await asyncio.gather(working, exiting, return_exceptions=True)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. Do nothing if the process has ended."""
        if self._popen.poll() is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def end(self) -> None:
        """Kill the process and its process group if it still runs, and reap it.

        If the process does not die within `DEATH_LIMIT_S`, leave it to `kickbench clean`: log a
        warning, set `survivor`, and have `survivors()` list it.
        """
        if self._popen.poll() is None:
            self._kill()
            if self.reaped_within(DEATH_LIMIT_S) is None:
                self.survivor = survivor(self.pid)
                _unreaped.append(self)
                _log.warning("Left to `kickbench clean`: %s.", self.survivor)
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        os.close(self._pidfd)

    def _kill(self) -> None:
        # The process leads its own process group. The group's id is its pid until it is reaped.
        os.killpg(self.pid, signal.SIGKILL)


_unreaped: list[Child] = []
"""Processes that did not die, for `survivors()`. To drop the last reference to one would make
subprocess emit a ResourceWarning."""


def survivors() -> list[Survivor]:
    """Return the child processes that were killed and are still there."""
    return [survivor(child.pid) for child in _unreaped if child.exit_status is None]
