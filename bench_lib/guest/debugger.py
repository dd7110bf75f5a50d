# SPDX-License-Identifier: BSD-3-Clause
"""Debuggers on a guest's QEMU: a real gdb, and ptrace(2) alone."""

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
    # What is asked is whether every thread stops. Symbols of a hundred libraries would take most
    # of the time, and more still from the network.
    "-iex", "set auto-solib-add off",
    "-iex", "set debuginfod enabled off",
]  # fmt: skip


class Gdb:
    """A gdb that is up and waits for what to do. :ivar version: as it says itself."""

    def __init__(self, child: process.Child, output: int) -> None:
        self.version = "gdb"
        self._child = child
        self._output = output
        self._received = b""

    @classmethod
    async def started(cls, run: Run, deadline: Deadline, stack: AsyncExitStack) -> Gdb:
        """:param stack: ends it.

        :raise DeadlinePassed: it is not ready in time.
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
        await deadline.wait_for(gdb._says(b"(gdb)"), "gdb's prompt")
        gdb._tell("-gdb-version")
        _, lines = await deadline.wait_for(gdb._lines(b"^done"), "gdb's version")
        gdb.version = next((each for each in map(gdb_mi.console, lines) if each), gdb.version)
        return gdb

    @property
    def pid(self) -> int:
        return self._child.pid

    def kill(self) -> None:
        """End it, and with it its hold on what it was attached to."""
        self._child.signal(signal.SIGKILL)
        self._child.reaped_within(process.DEATH_LIMIT_S)

    def attach(self, pid: int) -> int:
        """Tell it to attach to a process; when, on the monotonic clock, nanoseconds."""
        sent_ns = time.monotonic_ns()
        self._tell(f"-target-attach {pid}")
        return sent_ns

    async def attached(self, deadline: Deadline) -> int | None:
        """Wait until it says that it has stopped the process; when, or None after the deadline.

        :raise DebuggerFailed: it says that it cannot.
        """
        try:
            async with asyncio.timeout(deadline.remaining_s):
                # "^done" comes before, when it has asked every thread to stop and none has yet.
                return await self._says(b"*stopped")
        except TimeoutError:
            return None

    async def detach(self, deadline: Deadline) -> None:
        """Let the process go on."""
        self._tell("-target-detach")
        await deadline.wait_for(self._says(b"^done"), "gdb's detaching")

    def _tell(self, command: str) -> None:
        try:
            self._child.stdin.write(command.encode() + b"\n")
        except OSError as error:
            raise DebuggerFailed(f"gdb does not listen: {error.strerror}.") from None

    async def _says(self, word: bytes) -> int:
        """Wait for a line that begins so; when it was read."""
        now_ns, _ = await self._lines(word)
        return now_ns

    async def _lines(self, word: bytes) -> tuple[int, list[bytes]]:
        """The same, with all lines up to then."""
        loop = asyncio.get_running_loop()
        said: list[bytes] = []
        while True:
            *lines, self._received = self._received.split(b"\n")
            now_ns = time.monotonic_ns()
            said += lines
            for line in lines:
                if (record := gdb_mi.record(line)) is not None and record.kind == "^error":
                    why = record.strings.get("msg") or "an error without a message"
                    raise DebuggerFailed(f"gdb: {' '.join(why.split()).rstrip('.')}.")
            if any(line.startswith(word) for line in lines):
                return now_ns, said
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
    """Stops threads with ptrace(2), from a thread of its own: only the tracer itself may wait.

    A thread that the kernel does not let stop keeps the tracer until it is dead. Its process is
    not reaped before the tracer has let go of it, so nobody has to wait for the tracer itself.
    """

    def __init__(self, tids: Sequence[int]) -> None:
        self._tids = tids
        self._go = threading.Event()
        self._detach = threading.Event()
        self._begun_ns = 0
        self._stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._detached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._trace, daemon=True).start()

    def interrupt(self) -> None:
        """Seize and interrupt every thread."""
        self._go.set()

    async def stopped(self, deadline: Deadline) -> tuple[int, int] | None:
        """Wait until all have stopped.

        :return: nanoseconds on the monotonic clock, of the first call and of the last stop seen;
            None after the deadline.
        :raise DebuggerFailed: the kernel refused.
        """
        try:
            async with asyncio.timeout(deadline.remaining_s):
                stopped_ns = await asyncio.shield(self._stopped)
        except TimeoutError:
            return None
        return self._begun_ns, stopped_ns

    async def detach(self, deadline: Deadline) -> None:
        """Let all threads go on, untouched."""
        self._detach.set()
        await deadline.wait_for(asyncio.shield(self._detached), "The tracer's detaching")

    def close(self) -> None:
        """Detach from what has stopped, and end."""
        self._closed = True
        self._detach.set()
        self._go.set()

    def _trace(self) -> None:
        self._go.wait()
        if self._detach.is_set():  # closed before it was asked
            return
        try:
            self._begun_ns = time.monotonic_ns()
            for tid in self._tids:
                ptrace(PTRACE_SEIZE, tid)
                ptrace(PTRACE_INTERRUPT, tid)
            statuses = [os.waitpid(tid, WALL)[1] for tid in self._tids]
            stopped_ns = time.monotonic_ns()
            if not all(map(os.WIFSTOPPED, statuses)):
                self._fail("it has ended")
                return
            self._tell(self._stopped, stopped_ns)
            self._detach.wait()
            for tid, status in zip(self._tids, statuses, strict=True):
                ptrace(PTRACE_DETACH, tid, _undelivered(status))
            self._tell(self._detached, None)
        except OSError as error:
            self._fail(str(error.strerror))

    def _fail(self, why: str) -> None:
        failure = DebuggerFailed(f"A vCPU thread cannot be traced: {why}.")
        for future in (self._stopped, self._detached):
            self._tell(future, failure)

    def _tell(self, future: asyncio.Future, value: object) -> None:  # type: ignore[type-arg]
        def tell() -> None:
            if future.done() or self._closed:
                return
            if isinstance(value, Exception):
                future.set_exception(value)
            else:
                future.set_result(value)

        if not self._closed:
            self._loop.call_soon_threadsafe(tell)


def _undelivered(status: int) -> int:
    """The signal that a thread was about to take when it stopped; 0 if it was none."""
    return 0 if status >> 16 else os.WSTOPSIG(status)


def all_stopped(pid: int) -> bool:
    """Whether every thread of a process is stopped by its tracer.

    :raise GuestDied: there is no such process any more.
    """
    try:
        states = [
            (task / "stat").read_text().rpartition(")")[2].split()[0]
            for task in Path(f"/proc/{pid}/task").iterdir()
        ]
    except (FileNotFoundError, ProcessLookupError):
        raise GuestDied(f"Process {pid} is gone.") from None
    return set(states) == {"t"}
