# SPDX-License-Identifier: BSD-3-Clause
"""The workload of a guest image, which QEMU runs instead of firmware; see guest-images/gup.S."""

from __future__ import annotations

from bench_lib.deadline import Deadline
from bench_lib.guest.image import LoadedImage
from bench_lib.guest.serial import SerialLine
from bench_lib.guest.workloads.workload import Watch, Workload
from bench_lib.record import Shape

PASSES = 2
"""Passes of each vCPU that prove that a guest is up. In the second one, the vCPU reads back what
it wrote."""

WHOLE_PASSES = 3
"""Marks of each vCPU until its memory counts as checked. The first mark ends a pass that started
earlier; the other two end complete passes."""


class FirmwareWatch(Watch):
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


class Firmware(Workload):
    """A guest image, which has been checked against the manifest."""

    def __init__(self, image: LoadedImage) -> None:
        self._image = image
        self.sha256 = image.entry.sha256
        self.prescribes = image.entry.entry

    def arguments(self, shape: Shape) -> list[str]:
        return self._image.qemu_arguments(shape.memory_mib, shape.vcpus)

    def watch(self, line: SerialLine, shape: Shape) -> Watch:
        return FirmwareWatch(line, shape.vcpus)
