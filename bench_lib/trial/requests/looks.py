# SPDX-License-Identifier: BSD-3-Clause
"""Looks that an administrator takes at QEMU's process, with programs that read its memory map.

The kernel takes the process's mmap_lock for the command line. Older kernels also take it for the
memory map; Linux 6.18 does not (measured). A thread that is stuck while it holds that lock makes
these programs wait: at once if it holds the lock for writing, and if it holds it for reading, from
the moment at which another thread asks for writing.
"""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from contextlib import AsyncExitStack
from typing import ClassVar

from bench_lib import process, threads
from bench_lib.deadline import Deadline
from bench_lib.errors import GuestDied, LookFailed
from bench_lib.process import Child, run_tool
from bench_lib.record import WaitsFor
from bench_lib.trial.requests.request import Reply, Request
from bench_lib.trial.requests.waiting import readable

CHUNK = 65536

FRAMES = 8
"""How many functions of the program's stack a reason has."""


class Look(Request):
    """A program reads something of QEMU's process in /proc. Its whole output is the answer.

    The program waits for the end of its stdin before it reads, so its start is not measured. It is
    a process of its own, because the kernel may make it wait for as long as the stall lasts.

    :cvar shown: what the program prints of a QEMU that lives.
    """

    shown: ClassVar[bytes]

    _child: Child
    _output = -1
    _printed = b""
    _sent_ns = 0
    _printed_ns: int | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command, which waits for the end of its stdin, and then reads and ends."""

    async def prepare(self, deadline: Deadline, stack: AsyncExitStack) -> None:
        self._output, theirs = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, self._output)
        try:
            self._child = stack.enter_context(
                process.started(
                    self.command(), env=self.scene.run.mark, output=theirs, stdin_pipe=True
                )
            )
        finally:
            os.close(theirs)

    async def send(self) -> None:
        self._sent_ns = time.monotonic_ns()
        self._child.stdin.close()

    async def answer(self, deadline: Deadline) -> Reply | None:
        while self._printed_ns is None:
            if not await readable(self._output, deadline):
                return None
            data = os.read(self._output, CHUNK)
            if data:
                self._printed += data
            else:
                self._printed_ns = time.monotonic_ns()
        if await self._child.reaped(deadline) is None:
            return None
        status = self._child.exit_status
        assert status is not None
        if self.shown not in self._printed:
            if not process.lives(self.guest.child.pid):
                raise GuestDied(f"Process {self.guest.child.pid} has ended.")
            last = self._printed.decode(errors="replace").strip().rpartition("\n")[2]
            raise LookFailed(
                f"`{' '.join(self.command())}` {process.ended(status)} and did not show QEMU; its "
                f"last line is {last!r}."
            )
        return Reply(self._sent_ns, self._printed_ns)

    def hang(self) -> str | None:
        """Describe where the program waits.

        Its own stack shows that best: QEMU's threads show who may hold the lock.
        """
        try:
            seen = threads.observe(self._child.pid, self._child.pid)
        except ProcessLookupError:
            return None
        name = process.name_of(self._child.pid)
        if not seen.stack:
            return f"{name} was in state {seen.state}, with no kernel stack."
        lock = ", for a lock" if seen.waits_for is WaitsFor.LOCK else ""
        return f"{name} waited in state {seen.state}{lock}: {' < '.join(seen.stack[:FRAMES])}."


class ProcMaps(Look):
    """A running `cat` reads /proc/PID/maps."""

    shown = b"[stack]"

    def command(self) -> list[str]:
        return ["cat", "-", f"/proc/{self.guest.child.pid}/maps"]


class Ps(Look):
    """`ps` prints QEMU's command line. Its start is measured, as an administrator waits for it.

    A first ps has run before, so that its files are in the page cache.
    """

    shown = b" -name guest="

    async def prepare(self, deadline: Deadline, stack: AsyncExitStack) -> None:
        self.tool = run_tool(["ps", "--version"], deadline=deadline).strip()
        await super().prepare(deadline, stack)

    def command(self) -> list[str]:
        # `read` ends at the end of stdin. -ww prints the whole command line.
        return ["sh", "-c", 'read -r end; exec ps -ww -o pid,stat,args -p "$1"', "sh",
                str(self.guest.child.pid)]  # fmt: skip
