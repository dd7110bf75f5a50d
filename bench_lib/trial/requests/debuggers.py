# SPDX-License-Identifier: BSD-3-Clause
"""Requests of debuggers: on QEMU, and on the guest."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack

from bench_lib import threads
from bench_lib.deadline import Deadline
from bench_lib.errors import DebuggerFailed, GuestDied
from bench_lib.guest import debugger
from bench_lib.guest.debugger import Gdb, Tracer
from bench_lib.trial.requests.request import Reply, Request


class GdbAttach(Request):
    """A real gdb attaches to QEMU: until it has stopped every thread.

    gdb is up and waits for the command, so that its own start is no part of it. What gdb does by
    itself, a trial in `idle` shows.
    """

    _gdb: Gdb
    _sent_ns = 0

    async def prepare(self, deadline: Deadline, stack: AsyncExitStack) -> None:
        self._gdb = await Gdb.started(self.scene.run, deadline, stack)
        self.tool = self._gdb.version

    async def send(self) -> None:
        self._sent_ns = self._gdb.attach(self.guest.child.pid)

    async def answer(self, deadline: Deadline) -> Reply | None:
        attached_ns = await self._gdb.attached(deadline)
        pid = self.guest.child.pid
        if attached_ns is None:
            if not self._has_asked_all():
                raise DebuggerFailed("By the deadline gdb had not asked every vCPU thread to stop.")
            return None
        if not debugger.all_stopped(pid):
            raise DebuggerFailed("gdb says that it has attached, but a thread of QEMU still runs.")
        return Reply(self._sent_ns, attached_ns)

    def _has_asked_all(self) -> bool:
        pid = self.guest.child.pid
        try:
            return all(threads.tracer_of(pid, tid) == self._gdb.pid for tid in self.tids)
        except ProcessLookupError:
            raise GuestDied(f"Process {pid} has lost a vCPU thread.") from None

    def withdraw(self) -> bool:
        """Gdb keeps every other thread stopped while it waits for a vCPU's."""
        self._gdb.kill()
        # What it has asked of threads that have not yet stopped outlives it.
        self.guest.child.signal(signal.SIGCONT)
        return True

    async def undo(self, deadline: Deadline) -> None:
        await self._gdb.detach(deadline)


class PtraceInterrupt(Request):
    """The kernel's share of that alone: each vCPU thread is seized, interrupted, and stops."""

    _tracer: Tracer

    async def prepare(self, deadline: Deadline, stack: AsyncExitStack) -> None:
        self._tracer = Tracer(self.tids)
        stack.callback(self._tracer.close)

    async def send(self) -> None:
        self._tracer.interrupt()

    async def answer(self, deadline: Deadline) -> Reply | None:
        moments = await self._tracer.stopped(deadline)
        return moments and Reply(*moments)

    async def undo(self, deadline: Deadline) -> None:
        await self._tracer.detach(deadline)


class GdbstubBreak(Request):
    """A debugger of the guest asks QEMU's gdbstub to stop it: until the stop reply."""

    _sent_ns = 0

    async def send(self) -> None:
        assert self.guest.gdbstub is not None
        self._sent_ns = self.guest.gdbstub.interrupt()

    async def answer(self, deadline: Deadline) -> Reply | None:
        assert self.guest.gdbstub is not None
        stopped_ns = await self.guest.gdbstub.stopped(deadline)
        return None if stopped_ns is None else Reply(self._sent_ns, stopped_ns)

    async def undo(self, deadline: Deadline) -> None:
        assert self.guest.gdbstub is not None
        self.guest.gdbstub.resume()
