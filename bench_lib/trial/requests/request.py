# SPDX-License-Identifier: BSD-3-Clause
"""The interface of a request."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from dataclasses import dataclass

from bench_lib.deadline import Deadline
from bench_lib.threads import ThreadState
from bench_lib.trial.scene import Scene


@dataclass(frozen=True)
class Reply:
    """The answer to a request.

    :ivar sent_ns: the time at which the request left, in nanoseconds of the monotonic clock.
    :ivar answered_ns: the time at which the answer arrived, on the same clock.
    :ivar refusal: the error that the answer was; None if the request was granted.
    :ivar resolution_ns: the longest time between two looks for the answer, if it had to be polled
        for; None if an event was waited for.
    :ivar ended_ns: the time of QEMU's death, if that is not the answer; on the same clock.
    """

    sent_ns: int
    answered_ns: int
    refusal: str | None = None
    resolution_ns: int | None = None
    ended_ns: int | None = None

    @property
    def latency_ns(self) -> int:
        return self.answered_ns - self.sent_ns


class Request(ABC):
    """One request in one scene.

    :ivar scene: the scene, which has both sides of a migration if there is one.
    :ivar guest: the guest that the request is made to.
    :ivar tids: the ids of the guest's vCPU threads.
    :ivar tool: the version of the program that makes the request; None if there is none.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.guest = scene.guest
        self.tids = scene.tids
        self.tool: str | None = None

    async def prepare(self, deadline: Deadline, stack: AsyncExitStack) -> None:
        """Start what the request needs, before the scenario strands the guest.

        :param stack: the exit stack that ends it.
        """

    @abstractmethod
    async def send(self) -> None:
        """Make the request, and do nothing else, because the clock runs."""

    @abstractmethod
    async def answer(self, deadline: Deadline) -> Reply | None:
        """Wait for the answer. This may be called again after None.

        :return: None if the answer did not arrive before the deadline.
        :raise GuestDied: QEMU ended, but not as requested.
        """

    def hang(self) -> str | None:
        """Describe, in a sentence, what QEMU's threads do not show about a request that hangs.

        :return: None if QEMU's threads show all.
        """
        return None

    def called(self, state: ThreadState) -> bool:
        """Whether a thread of QEMU should leave the kernel, for all that the look at it shows.

        :param state: the thread at the deadline.
        """
        return state.called

    def withdraw(self) -> bool:
        """Take back a hung request, if QEMU can do nothing else as long as it hangs.

        :return: whether the request was taken back, so that no answer will arrive.
        """
        return False

    async def undo(self, deadline: Deadline) -> None:
        """Let the guest continue after the answer."""
