# SPDX-License-Identifier: BSD-3-Clause
"""The interface of a workload."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from bench_lib.deadline import Deadline
from bench_lib.guest.serial import SerialLine
from bench_lib.record import Entry, Kernel, Shape


class Watch(ABC):
    """An observer of the workload of one running guest.

    Between `pause` and `resume` nothing is read from the guest, because reading from a busy guest
    would disturb a measurement.
    """

    @abstractmethod
    async def ready(self, deadline: Deadline) -> None:
        """Wait until every vCPU has written its memory and read it back.

        :raise DeadlinePassed: a vCPU has not done so in time.
        :raise MemoryDamaged: the guest found its memory changed.
        """

    @abstractmethod
    async def rewritten(self, deadline: Deadline) -> None:
        """Wait until every vCPU has written all of its memory once more.

        :raise DeadlinePassed: a vCPU has not done so in time.
        :raise MemoryDamaged: the guest found its memory changed.
        """

    @abstractmethod
    async def continues(self, deadline: Deadline) -> None:
        """Wait until every vCPU has made progress since the last `resume`.

        :raise DeadlinePassed: a vCPU has not made progress in time.
        :raise MemoryDamaged: the guest found its memory changed.
        """

    @abstractmethod
    async def verified(self, deadline: Deadline) -> None:
        """Wait until the guest has checked all of its memory once, starting now.

        :raise DeadlinePassed: the guest has not done so in time.
        :raise MemoryDamaged: the guest found its memory changed.
        """

    @abstractmethod
    def pause(self) -> None:
        """Stop reading from the guest."""

    @abstractmethod
    async def resume(self) -> None:
        """Resume reading, and return after all that the guest sent during the pause was read."""

    @abstractmethod
    async def look(self) -> None:
        """Read what has arrived, without waiting for more."""

    @property
    @abstractmethod
    def damage(self) -> str | None:
        """What the guest has reported about its memory; None if it has reported no damage."""


class Workload(ABC):
    """What a guest runs.

    :ivar sha256: the hash of the image that the guest is started from.
    :ivar prescribes: how the vCPUs get stuck on a page that does not arrive; None if that depends
        on the kernel.
    :ivar kernel: the kernel that the guest runs; None if it runs none.
    :ivar state: the saved state that trials start the guest from; None if it boots.
    :ivar boot_ns: how long the guest took to boot before its state was saved.
    :ivar span_start: the guest-physical address from which on the passes touch every page.
    :ivar halts: whether vCPUs that have nothing to do halt, so that not every vCPU gets stuck.
    """

    sha256: str
    prescribes: Entry | None
    span_start: int = 0
    halts: bool = False
    kernel: Kernel | None = None
    state: Path | None = None
    boot_ns: int | None = None

    @abstractmethod
    def arguments(self, shape: Shape) -> list[str]:
        """Return the part of QEMU's command line that makes a guest run this workload."""

    @abstractmethod
    def watch(self, line: SerialLine, shape: Shape) -> Watch:
        """Make the watch of a guest.

        :param line: the guest's serial line.
        """
