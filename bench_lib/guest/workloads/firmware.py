# SPDX-License-Identifier: BSD-3-Clause
"""The workload of a guest image, which QEMU runs instead of firmware; see guest-images/gup.S."""

from __future__ import annotations

from bench_lib.guest.image import LoadedImage
from bench_lib.guest.serial import SerialLine
from bench_lib.guest.workloads.marks import MarksWatch
from bench_lib.guest.workloads.workload import Watch, Workload
from bench_lib.record import Shape


class Firmware(Workload):
    """A guest image, which has been checked against the manifest."""

    def __init__(self, image: LoadedImage) -> None:
        self._image = image
        self.sha256 = image.entry.sha256
        self.prescribes = image.entry.entry
        self.span_start = image.entry.span_start

    def arguments(self, shape: Shape) -> list[str]:
        return self._image.qemu_arguments(shape.memory_mib, shape.vcpus)

    def watch(self, line: SerialLine, shape: Shape) -> Watch:
        return MarksWatch(line, shape.vcpus)
