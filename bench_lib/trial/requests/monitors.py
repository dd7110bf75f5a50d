# SPDX-License-Identifier: BSD-3-Clause
"""Requests to QEMU's monitor."""

from __future__ import annotations

from typing import Any, ClassVar

from bench_lib.deadline import Deadline
from bench_lib.trial.requests.request import Reply, Request


class MonitorCommand(Request):
    """A QMP command: from its first byte written to its reply read.

    :cvar command: its name.
    :cvar arguments: and its arguments.
    """

    command: ClassVar[str]
    arguments: ClassVar[dict[str, Any]] = {}

    _sent_ns = 0

    async def send(self) -> None:
        self._sent_ns = self.guest.requests.send(self.command, self.arguments)

    async def answer(self, deadline: Deadline) -> Reply | None:
        answer = await self.guest.requests.answer(deadline)
        return None if answer is None else Reply(self._sent_ns, answer.at_ns, answer.error)


class Stop(MonitorCommand):
    """`stop`.

    pause_all_vcpus() in QEMU signals each vCPU thread and waits without a limit until all have
    left the kernel; with no disk there is nothing else that the reply waits for.
    """

    command = "stop"

    async def undo(self, deadline: Deadline) -> None:
        await self.guest.control.execute("cont", deadline=deadline)


class QueryStatus(MonitorCommand):
    """`query-status`, which QEMU's main loop answers by itself."""

    command = "query-status"


class Registers(MonitorCommand):
    """`info registers`, of every vCPU. QEMU has each of them leave KVM_RUN for it."""

    command = "human-monitor-command"
    arguments: ClassVar[dict[str, Any]] = {"command-line": "info registers -a"}
