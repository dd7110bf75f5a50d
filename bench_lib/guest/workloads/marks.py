# SPDX-License-Identifier: BSD-3-Clause
"""The watch of a guest whose vCPUs send a mark after each pass over their memory."""

from __future__ import annotations

from bench_lib.deadline import Deadline
from bench_lib.guest.serial import SerialLine
from bench_lib.guest.workloads.workload import Watch

PASSES = 2
"""Passes of each vCPU that prove that a guest is up. In the second one, the vCPU reads back what
it wrote."""

WHOLE_PASSES = 3
"""Marks of each vCPU until its memory counts as checked. The first mark ends a pass that started
earlier; the other two end complete passes."""


class MarksWatch(Watch):
    """An observer that counts the marks that vCPUs send, one after each pass over their memory."""

    def __init__(self, line: SerialLine, vcpus: int) -> None:
        self._line = line
        self._vcpus = vcpus
        self._resumed: dict[int, int] = {}

    async def ready(self, deadline: Deadline) -> None:
        await self._line.passes(self._vcpus, PASSES, deadline)

    async def rewritten(self, deadline: Deadline) -> None:
        # The first mark ends a pass that started earlier.
        await self._line.passes(self._vcpus, 2, deadline, dict(self._line.marks.passes))

    async def continues(self, deadline: Deadline) -> None:
        await self._line.passes(self._vcpus, 1, deadline, self._resumed)

    async def verified(self, deadline: Deadline) -> None:
        before = dict(self._line.marks.passes)
        await self._line.passes(self._vcpus, WHOLE_PASSES, deadline, before)
        self._line.check_memory()

    def pause(self) -> None:
        self._line.pause()

    async def resume(self) -> None:
        await self._line.resume()
        self._resumed = dict(self._line.marks.passes)

    async def look(self) -> None:
        await self._line.look()

    @property
    def damage(self) -> str | None:
        return self._line.damage
