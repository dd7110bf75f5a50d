# SPDX-License-Identifier: BSD-3-Clause
"""Requests that end QEMU, measured until QEMU is reaped."""

from __future__ import annotations

import os
import resource
import signal
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import ClassVar

from bench_lib.deadline import Deadline
from bench_lib.errors import GuestDied
from bench_lib.trial.requests.request import Reply, Request
from bench_lib.trial.requests.waiting import readable

INTERRUPT = b"\x03"
"""The character that Ctrl-C types. The terminal's line discipline sends SIGINT for it."""


class Ending(Request):
    """A request whose answer is the end of QEMU."""

    status: ClassVar[int] = 0
    """QEMU's exit status if it ends as requested; -N if signal N has to end it."""

    _sent_ns = 0

    async def answer(self, deadline: Deadline) -> Reply | None:
        ended_ns = await self.guest.child.reaped(deadline)
        if ended_ns is None:
            return None
        status = self.guest.child.exit_status
        assert status is not None
        if status != self.status:
            how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
            raise GuestDied(f"QEMU ended {how}, not as requested.")
        return Reply(self._sent_ns, ended_ns)


class CtrlC(Ending):
    """Ctrl-C, typed at QEMU's terminal."""

    async def send(self) -> None:
        assert self.guest.keyboard is not None
        self._sent_ns = time.monotonic_ns()
        os.write(self.guest.keyboard, INTERRUPT)


class Quit(Ending):
    """QMP `quit`."""

    async def send(self) -> None:
        self._sent_ns = self.guest.requests.send("quit")


class Sigterm(Ending):
    """SIGTERM, which management software sends first."""

    number: ClassVar[signal.Signals] = signal.SIGTERM

    async def send(self) -> None:
        self._sent_ns = time.monotonic_ns()
        self.guest.child.signal(self.number)


class Sigkill(Sigterm):
    """SIGKILL, which does not end a thread that sleeps uninterruptibly."""

    number = signal.SIGKILL
    status = -signal.SIGKILL


class CoreDump(Sigterm):
    """SIGQUIT, for which the kernel dumps the core of QEMU before QEMU ends.

    The kernel first ends all other threads and waits for that, without a limit, and then writes
    QEMU's memory, the guest's included unless that is a shared mapping of a file (see
    coredump_filter in core(5)). That QEMU ends without a core is a refusal.
    """

    number = signal.SIGQUIT
    status = -signal.SIGQUIT

    _pidfd = -1

    async def prepare(self, deadline: Deadline, stack: AsyncExitStack) -> None:
        pid = self.guest.child.pid
        self._pidfd = os.pidfd_open(pid)
        stack.callback(os.close, self._pidfd)
        with suppress(ProcessLookupError):  # it has ended, which the trial notices
            resource.prlimit(pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)

    async def answer(self, deadline: Deadline) -> Reply | None:
        if not await readable(self._pidfd, deadline):
            return None
        dumped = self._dumped()
        reply = await super().answer(deadline)
        if reply is None or dumped:
            return reply
        return replace(reply, refusal="QEMU ended by SIGQUIT, but the kernel dumped no core of it.")

    def _dumped(self) -> bool:
        """Whether QEMU, which is dead, has dumped core. The kernel shows that until QEMU is reaped.

        A dead QEMU that a debugger traces is not shown.
        """
        how = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        return how is not None and how.si_code == os.CLD_DUMPED
