# SPDX-License-Identifier: BSD-3-Clause
"""What every request is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from dataclasses import dataclass

from bench_lib.deadline import Deadline
from bench_lib.trial.scene import Scene


@dataclass(frozen=True)
class Reply:
    """What the operator got.

    :ivar sent_ns: when the request left, on the monotonic clock, nanoseconds.
    :ivar answered_ns: when its answer arrived.
    :ivar refusal: the error that answered it, if one did.
    :ivar resolution_ns: how far apart the looks were that saw the answer, where it had to be
        looked for.
    """

    sent_ns: int
    answered_ns: int
    refusal: str | None = None
    resolution_ns: int | None = None

    @property
    def latency_ns(self) -> int:
        return self.answered_ns - self.sent_ns


class Request(ABC):
    """One request in one scene.

    :ivar scene: with both sides of a migration, where there is one.
    :ivar guest: the one that the trial is about. :ivar tids: of its vCPU threads.
    :ivar tool: the version of the program that makes the request, where one does.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.guest = scene.guest
        self.tids = scene.tids
        self.tool: str | None = None

    async def prepare(self, deadline: Deadline, stack: AsyncExitStack) -> None:
        """Start what it needs, while the guest is still well.

        :param stack: ends it.
        """

    @abstractmethod
    async def send(self) -> None:
        """Make the request; no more than that, because the clock runs."""

    @abstractmethod
    async def answer(self, deadline: Deadline) -> Reply | None:
        """Wait for the answer. May be called again after a deadline that passed.

        :return: None if it did not arrive before the deadline.
        :raise GuestDied: QEMU ended, and not as it was asked to.
        """

    def withdraw(self) -> bool:
        """Take back what hung, where QEMU can do nothing before that is done.

        :return: whether it was; there will be no answer then.
        """
        return False

    async def undo(self, deadline: Deadline) -> None:
        """Let the guest go on as before, once there was an answer."""
