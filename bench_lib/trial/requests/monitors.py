# SPDX-License-Identifier: BSD-3-Clause
"""Requests that are QMP commands."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from bench_lib.deadline import Deadline
from bench_lib.guest.qemu import PLUGGED_MIB
from bench_lib.trial.requests.description import DIRTY_RATE_S
from bench_lib.trial.requests.request import Reply, Request

LOOK_S = 0.01
"""Seconds between two looks for a result that QEMU has no event for."""


class MonitorCommand(Request):
    """A QMP command, measured from the write of its first byte until its reply has been read.

    :cvar command: the name of the command.
    :cvar arguments: the arguments of the command.
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

    pause_all_vcpus() in QEMU signals each vCPU thread, and waits without a limit until all have
    left the kernel. The guest has no disk, so the reply waits for nothing else.
    """

    command = "stop"

    async def undo(self, deadline: Deadline) -> None:
        await self.guest.control.execute("cont", deadline=deadline)


class QueryStatus(MonitorCommand):
    """`query-status`, which QEMU's main loop answers without a vCPU."""

    command = "query-status"


class Registers(MonitorCommand):
    """`info registers` for every vCPU, each of which has to leave KVM_RUN for that."""

    command = "human-monitor-command"
    arguments: ClassVar[dict[str, Any]] = {"command-line": "info registers -a"}


class PlugMemory(MonitorCommand):
    """`device_add` of a memory module, which an operator uses to give a guest more memory.

    The memory itself has been made before. QEMU's main thread tells KVM about it
    (KVM_SET_USER_MEMORY_REGION), and KVM waits there for every vCPU that reads the list of memory
    slots (synchronize_srcu()). Nothing makes such a vCPU leave the kernel.
    """

    command = "device_add"
    arguments: ClassVar[dict[str, Any]] = {"driver": "pc-dimm", "memdev": "plugged"}

    async def prepare(self, deadline: Deadline, stack: AsyncExitStack) -> None:
        await self.guest.control.execute(
            "object-add",
            {"qom-type": "memory-backend-ram", "id": "plugged", "size": PLUGGED_MIB << 20},
            deadline=deadline,
        )


class DirtyRate(MonitorCommand):
    """`calc-dirty-rate`, with which an operator finds out whether a guest can be migrated.

    QEMU answers the command at once. Then a thread of it makes KVM log the guest's writes to each
    memory slot, with QEMU's big lock held, and KVM waits for stuck vCPUs as in `PlugMemory`. So
    QEMU's monitor answers nothing more. The result is asked for again and again, and the longest
    time between two looks is the resolution. The latency has the second that QEMU measures, and
    the deadline is longer by it.
    """

    command = "calc-dirty-rate"
    arguments: ClassVar[dict[str, Any]] = {"calc-time": DIRTY_RATE_S, "mode": "dirty-bitmap"}

    _resolution_ns = 0
    _asked_ns = 0

    async def answer(self, deadline: Deadline) -> Reply | None:
        while (answer := await self.guest.requests.answer(deadline)) is not None:
            if answer.error is not None:
                return Reply(self._sent_ns, answer.at_ns, answer.error)
            if self._asked_ns:
                self._resolution_ns = max(self._resolution_ns, answer.at_ns - self._asked_ns)
                if answer.result["status"] == "measured":
                    return Reply(self._sent_ns, answer.at_ns, resolution_ns=self._resolution_ns)
            self._asked_ns = answer.at_ns
            await asyncio.sleep(LOOK_S)
            self.guest.requests.send("query-dirty-rate")
        return None
