# SPDX-License-Identifier: BSD-3-Clause
"""Debuggers that attach to a guest's QEMU: a real gdb, and ptrace(2) alone."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from bench_lib import process
from bench_lib.deadline import Deadline
from bench_lib.errors import DebuggerFailed, GuestDied
from bench_lib.guest import gdb_mi
from bench_lib.ownership import Run
from bench_lib.ptrace import PTRACE_DETACH, PTRACE_INTERRUPT, PTRACE_SEIZE, WALL, ptrace

CHUNK = 65536

GDB = [
    "gdb", "--nx", "--quiet", "--interpreter=mi2",
    # Trials only need gdb to stop every thread. Loading the symbols of a hundred libraries would
    # take most of the time, and downloading symbols even more.
    "-iex", "set auto-solib-add off",
    "-iex", "set debuginfod enabled off",
]  # fmt: skip


class Gdb:
    """A gdb that has started and waits for commands.

    :ivar version: the version as gdb prints it.
    """

    def __init__(self, child: process.Child, output: int) -> None:
        self.version = "gdb"
        self._child = child
        self._output = output
        self._received = b""

    @classmethod
    async def started(cls, run: Run, deadline: Deadline, stack: AsyncExitStack) -> Gdb:
        """Start a gdb and wait for its prompt.

        :param stack: the exit stack that ends gdb.
        :raise DeadlinePassed: gdb did not print its prompt in time.
        """
        output, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        stack.callback(os.close, output)
        os.set_blocking(theirs, True)
        try:
            child = stack.enter_context(
                process.started(GDB, env=run.mark, output=theirs, stdin_pipe=True)
            )
        finally:
            os.close(theirs)
        gdb = cls(child, output)
        await deadline.wait_for(gdb._wait_for(b"(gdb)"), "gdb's prompt")
        gdb._write("-gdb-version")
        _, lines = await deadline.wait_for(gdb._lines_until(b"^done"), "gdb's version")
        gdb.version = next((each for each in map(gdb_mi.console, lines) if each), gdb.version)
        return gdb

    @property
    def pid(self) -> int:
        return self._child.pid

    def kill(self) -> None:
        """Kill gdb, which detaches it from the process that it traces."""
        self._child.signal(signal.SIGKILL)
        self._child.reaped_within(process.DEATH_LIMIT_S)

    def attach(self, pid: int) -> int:
        """Make gdb attach to a process.

        :return: the time just before the command, in nanoseconds of the monotonic clock.
        """
        sent_ns = time.monotonic_ns()
        self._write(f"-target-attach {pid}")
        return sent_ns

    async def attached(self, deadline: Deadline) -> int | None:
        """Wait until gdb reports that it has stopped the process.

        :return: the time of the report, in nanoseconds of the monotonic clock; None if the deadline
            passed.
        :raise DebuggerFailed: gdb reported an error, or ended.
        """
        try:
            async with asyncio.timeout(deadline.remaining_s):
                # "^done" comes earlier: when gdb has asked every thread to stop.
                return await self._wait_for(b"*stopped")
        except TimeoutError:
            return None

    async def detach(self, deadline: Deadline) -> None:
        """Detach gdb, so that the process continues."""
        self._write("-target-detach")
        await deadline.wait_for(self._wait_for(b"^done"), "gdb's detaching")

    def _write(self, command: str) -> None:
        try:
            self._child.stdin.write(command.encode() + b"\n")
        except OSError as error:
            raise DebuggerFailed(f"gdb accepts no commands: {error.strerror}.") from None

    async def _wait_for(self, prefix: bytes) -> int:
        """Wait for a line that starts with `prefix`, and return the time at which it was read."""
        now_ns, _ = await self._lines_until(prefix)
        return now_ns

    async def _lines_until(self, prefix: bytes) -> tuple[int, list[bytes]]:
        """Wait for a line that starts with `prefix`.

        :return: the time at which the line was read, and all lines up to then.
        :raise DebuggerFailed: gdb reported an error, or ended.
        """
        loop = asyncio.get_running_loop()
        read: list[bytes] = []
        while True:
            *lines, self._received = self._received.split(b"\n")
            now_ns = time.monotonic_ns()
            read += lines
            for line in lines:
                if (record := gdb_mi.record(line)) is not None and record.kind == "^error":
                    why = record.strings.get("msg") or "an error without a message"
                    raise DebuggerFailed(f"gdb: {' '.join(why.split()).rstrip('.')}.")
            if any(line.startswith(prefix) for line in lines):
                return now_ns, read
            if not select.select([self._output], [], [], 0)[0]:
                readable = asyncio.Event()
                loop.add_reader(self._output, readable.set)
                try:
                    await readable.wait()
                finally:
                    loop.remove_reader(self._output)
            data = os.read(self._output, CHUNK)
            if not data:
                raise DebuggerFailed("gdb ended.")
            self._received += data


class Tracer:
    """A tracer that stops threads with ptrace(2), and waits for their stops in its own thread.

    It needs that thread because only the thread that traces can wait for the stops. If a traced
    thread does not stop, the tracing thread waits until the traced one is dead. The traced process
    cannot be reaped before the tracer has detached, so the caller waits for the process and never
    has to join the tracing thread.
    """

    def __init__(self, tids: Sequence[int]) -> None:
        self._tids = tids
        self._go = threading.Event()
        self._detach = threading.Event()
        self._started_ns = 0
        self._stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._detached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._trace, daemon=True).start()

    def interrupt(self) -> None:
        """Start to seize and interrupt every thread."""
        self._go.set()

    async def stopped(self, deadline: Deadline) -> tuple[int, int] | None:
        """Wait until all threads have stopped.

        :return: the time of the first call of ptrace(2) and the time at which the last stop was
            seen, in nanoseconds of the monotonic clock; None if the deadline passed.
        :raise DebuggerFailed: the kernel refused to trace a thread, or a thread ended.
        """
        try:
            async with asyncio.timeout(deadline.remaining_s):
                stopped_ns = await asyncio.shield(self._stopped)
        except TimeoutError:
            return None
        return self._started_ns, stopped_ns

    async def detach(self, deadline: Deadline) -> None:
        """Detach from all threads, so that they continue unchanged."""
        self._detach.set()
        await deadline.wait_for(asyncio.shield(self._detached), "The tracer's detaching")

    def close(self) -> None:
        """Detach from all threads that have stopped, and end the tracing thread."""
        self._closed = True
        self._detach.set()
        self._go.set()

    def _trace(self) -> None:
        self._go.wait()
        if self._detach.is_set():  # close() was called before interrupt()
            return
        try:
            self._started_ns = time.monotonic_ns()
            for tid in self._tids:
                ptrace(PTRACE_SEIZE, tid)
                ptrace(PTRACE_INTERRUPT, tid)
            statuses = [os.waitpid(tid, WALL)[1] for tid in self._tids]
            stopped_ns = time.monotonic_ns()
            if not all(map(os.WIFSTOPPED, statuses)):
                self._fail("it has ended")
                return
            self._resolve(self._stopped, stopped_ns)
            self._detach.wait()
            for tid, status in zip(self._tids, statuses, strict=True):
                ptrace(PTRACE_DETACH, tid, _undelivered(status))
            self._resolve(self._detached, None)
        except OSError as error:
            self._fail(str(error.strerror))

    def _fail(self, why: str) -> None:
        failure = DebuggerFailed(f"A vCPU thread cannot be traced: {why}.")
        for future in (self._stopped, self._detached):
            self._resolve(future, failure)

    def _resolve(self, future: asyncio.Future, value: object) -> None:  # type: ignore[type-arg]
        """Set the result or the error of a future, from the tracing thread."""

        def resolve() -> None:
            if future.done() or self._closed:
                return
            if isinstance(value, Exception):
                future.set_exception(value)
                # Marks the error as retrieved. asyncio would print it at exit if the caller awaits
                # only the other future.
                future.exception()
            else:
                future.set_result(value)

        if not self._closed:
            self._loop.call_soon_threadsafe(resolve)


def _undelivered(status: int) -> int:
    """Return the signal that a thread was about to take when it stopped, or 0 if there was none."""
    return 0 if status >> 16 else os.WSTOPSIG(status)


def all_stopped(pid: int) -> bool:
    """Whether every thread of a process is stopped by its tracer.

    :raise GuestDied: the process has ended.
    """
    try:
        states = [
            (task / "stat").read_text().rpartition(")")[2].split()[0]
            for task in Path(f"/proc/{pid}/task").iterdir()
        ]
    except (FileNotFoundError, ProcessLookupError):
        raise GuestDied(f"Process {pid} has ended.") from None
    return set(states) == {"t"}
