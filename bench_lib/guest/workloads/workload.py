# SPDX-License-Identifier: BSD-3-Clause
"""The interface of a workload."""

from __future__ import annotations

from abc import ABC, abstractmethod

from bench_lib.deadline import Deadline
from bench_lib.guest.serial import SerialLine
from bench_lib.record import Entry, Shape


class Watch(ABC):
    """Sees how the workload of one running guest is doing.

    Between `pause` and `resume` nothing is read from the guest: what a busy one says would be in
    the way of a measurement.
    """

    @abstractmethod
    async def ready(self, deadline: Deadline) -> None:
        """Wait until every vCPU has shown that it runs, and has read back what it wrote.

        :raise DeadlinePassed: one has not.
        :raise MemoryDamaged: the guest has found its memory changed.
        """

    @abstractmethod
    async def rewritten(self, deadline: Deadline) -> None:
        """Wait until every vCPU has written all of its memory once more.

        :raise DeadlinePassed: one has not.
        :raise MemoryDamaged: the guest has found its memory changed.
        """

    @abstractmethod
    async def goes_on(self, deadline: Deadline) -> None:
        """Wait until every vCPU has made progress since the last `resume`.

        :raise DeadlinePassed: one has not.
        :raise MemoryDamaged: the guest has found its memory changed.
        """

    @abstractmethod
    async def verified(self, deadline: Deadline) -> None:
        """Wait until the guest has checked all of its memory, from now on.

        :raise DeadlinePassed: it has not.
        :raise MemoryDamaged: it has found its memory changed.
        """

    @abstractmethod
    def pause(self) -> None:
        """Read nothing from the guest for a while."""

    @abstractmethod
    async def resume(self) -> None:
        """Read again, first of all what the guest sent before."""

    @abstractmethod
    async def look(self) -> None:
        """Read what has arrived, without waiting for more."""

    @property
    @abstractmethod
    def damage(self) -> str | None:
        """What the guest has reported of its memory; None as long as it is whole."""


class Workload(ABC):
    """What a guest runs.

    :ivar sha256: of what it is started from.
    :ivar prescribes: how its vCPUs get stuck on a page that does not arrive; None where that is for
        the kernel to show.
    """

    sha256: str
    prescribes: Entry | None

    @abstractmethod
    def arguments(self, shape: Shape) -> list[str]:
        """The part of QEMU's command line that makes a guest of it."""

    @abstractmethod
    def watch(self, line: SerialLine, shape: Shape) -> Watch:
        """:param line: the guest's serial line."""
