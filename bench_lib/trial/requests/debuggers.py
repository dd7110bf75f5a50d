# SPDX-License-Identifier: BSD-3-Clause
"""Requests that debuggers make: of QEMU's process, and of the guest."""

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
    """A real gdb attaches to QEMU. It answers when it has stopped every thread.

    gdb has been started before, so that its start is not measured. A trial in `idle` shows how much
    time gdb itself takes.
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
            if not self._traces_all():
                raise DebuggerFailed("gdb had not attached to every vCPU thread by the deadline.")
            return None
        if not debugger.all_stopped(pid):
            raise DebuggerFailed("gdb reported that it has attached, but a QEMU thread still runs.")
        return Reply(self._sent_ns, attached_ns)

    def _traces_all(self) -> bool:
        """Whether gdb traces every vCPU thread."""
        pid = self.guest.child.pid
        try:
            return all(threads.tracer_of(pid, tid) == self._gdb.pid for tid in self.tids)
        except ProcessLookupError:
            raise GuestDied(f"A vCPU thread of process {pid} has ended.") from None

    def withdraw(self) -> bool:
        """Kill gdb, which keeps every other thread stopped while it waits for a vCPU thread."""
        self._gdb.kill()
        # gdb's stop signals stay pending for threads that have not stopped yet.
        self.guest.child.signal(signal.SIGCONT)
        return True

    async def undo(self, deadline: Deadline) -> None:
        await self._gdb.detach(deadline)


class PtraceInterrupt(Request):
    """The kernel's share of `gdb-attach`: seize and interrupt each vCPU thread, until it stops."""

    _tracer: Tracer

    async def prepare(self, deadline: Deadline, stack: AsyncExitStack) -> None:
        self._tracer = Tracer(self.tids)
        stack.callback(self._tracer.close)

    async def send(self) -> None:
        self._tracer.interrupt()

    async def answer(self, deadline: Deadline) -> Reply | None:
        times = await self._tracer.stopped(deadline)
        return times and Reply(*times)

    async def undo(self, deadline: Deadline) -> None:
        await self._tracer.detach(deadline)


class GdbstubBreak(Request):
    """A debugger asks QEMU's gdbstub to stop the guest. The stop reply is the answer."""

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
