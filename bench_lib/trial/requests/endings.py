# SPDX-License-Identifier: BSD-3-Clause
"""Requests that end QEMU, from their sending until it is reaped."""

from __future__ import annotations

import os
import signal
import time
from typing import ClassVar

from bench_lib.deadline import Deadline
from bench_lib.errors import GuestDied
from bench_lib.trial.requests.request import Reply, Request

INTERRUPT = b"\x03"
"""What Ctrl-C types; the terminal's line discipline makes SIGINT of it."""


class Ending(Request):
    """A request whose answer is QEMU's end."""

    status: ClassVar[int] = 0
    """QEMU's exit status when it ends as it was asked to, as in subprocess."""

    _sent_ns = 0

    async def answer(self, deadline: Deadline) -> Reply | None:
        ended_ns = await self.guest.child.reaped(deadline)
        if ended_ns is None:
            return None
        status = self.guest.child.exit_status
        assert status is not None
        if status != self.status:
            how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
            raise GuestDied(f"QEMU ended {how}, not as asked.")
        return Reply(self._sent_ns, ended_ns)


class CtrlC(Ending):
    """Ctrl-C at the terminal that QEMU is in the foreground of."""

    async def send(self) -> None:
        assert self.guest.keyboard is not None
        self._sent_ns = time.monotonic_ns()
        os.write(self.guest.keyboard, INTERRUPT)


class Quit(Ending):
    """QMP `quit`."""

    async def send(self) -> None:
        self._sent_ns = self.guest.requests.send("quit")


class Sigterm(Ending):
    """SIGTERM, which management layers send first."""

    number: ClassVar[signal.Signals] = signal.SIGTERM

    async def send(self) -> None:
        self._sent_ns = time.monotonic_ns()
        self.guest.child.signal(self.number)


class Sigkill(Sigterm):
    """SIGKILL, which ends no thread that sleeps uninterruptibly."""

    number = signal.SIGKILL
    status = -signal.SIGKILL
