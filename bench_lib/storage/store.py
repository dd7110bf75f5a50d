# SPDX-License-Identifier: BSD-3-Clause
"""The interface of a store, from which a guest gets its memory, and which can stop answering."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, TypeVar

from bench_lib.deadline import Deadline

T = TypeVar("T")


class Store(ABC):
    """A store, which has been set up. It ends with the exit stack that it was made with.

    :ivar description: the kind of store and its parameters, for the record.
    :ivar mechanism: what keeps the store from answering when it stalls, for the record.
    :ivar memory_file: the file that is the guest's memory; None for a store behind memory that
        belongs to no file, such as a swap device.
    """

    description: str
    mechanism: str
    memory_file: str | None = None

    @abstractmethod
    async def stall(self, pid: int, deadline: Deadline) -> None:
        """Make the store stop answering, when none of the guest's memory is left on this host.

        :param pid: the process of QEMU. It runs again when this returns, and its vCPUs get stuck.
        :raise StorageFailed: the store failed.
        :raise DeadlinePassed: it still answered at the deadline.
        """

    @abstractmethod
    def release(self) -> None:
        """Let the store answer everything, from now on. A second call does nothing."""

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` while the store works or stalls as it should.

        :raise StorageFailed: the store failed before the work was done.
        """
        return await work
