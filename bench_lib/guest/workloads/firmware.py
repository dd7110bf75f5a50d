# SPDX-License-Identifier: BSD-3-Clause
"""A guest image of our own, which QEMU runs in place of its firmware; see guest-images/gup.S."""

from __future__ import annotations

from bench_lib.deadline import Deadline
from bench_lib.guest.image import LoadedImage
from bench_lib.guest.serial import SerialLine
from bench_lib.guest.workloads.workload import Watch, Workload
from bench_lib.record import Shape

PASSES = 2
"""Passes that prove a guest up: by the second it has read back all that it wrote."""

WHOLE_PASSES = 3
"""Marks of each vCPU until its memory counts as checked: the first ends a pass that had begun
before, two more are whole."""


class FirmwareWatch(Watch):
    """Counts the marks that each vCPU sends at the end of a pass over its memory."""

    def __init__(self, line: SerialLine, vcpus: int) -> None:
        self._line = line
        self._vcpus = vcpus
        self._resumed: dict[int, int] = {}

    async def ready(self, deadline: Deadline) -> None:
        await self._line.passes(self._vcpus, PASSES, deadline)

    async def rewritten(self, deadline: Deadline) -> None:
        # The first mark ends a pass that had begun before.
        await self._line.passes(self._vcpus, 2, deadline, dict(self._line.marks.passes))

    async def goes_on(self, deadline: Deadline) -> None:
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


class Firmware(Workload):
    """A guest image that has been checked against the manifest."""

    def __init__(self, image: LoadedImage) -> None:
        self._image = image
        self.sha256 = image.entry.sha256
        self.prescribes = image.entry.entry

    def arguments(self, shape: Shape) -> list[str]:
        return self._image.qemu_arguments(shape.memory_mib, shape.vcpus)

    def watch(self, line: SerialLine, shape: Shape) -> Watch:
        return FirmwareWatch(line, shape.vcpus)
