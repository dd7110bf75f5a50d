"""What every request is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import ClassVar

from bench_lib.deadline import Deadline
from bench_lib.guest.qemu import Guest
from bench_lib.ownership import Run


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


class Asking(ABC):
    """One request to one guest.

    :cvar ends_guest: whether the guest is gone when it is answered.
    :cvar needs_terminal: whether QEMU has to be in the foreground of a terminal.
    :cvar needs_gdbstub: whether it has to have a gdbstub.
    :ivar tool: the version of the program that makes it, where one does.
    """

    ends_guest: ClassVar[bool] = False
    needs_terminal: ClassVar[bool] = False
    needs_gdbstub: ClassVar[bool] = False

    def __init__(self, run: Run, guest: Guest, tids: Sequence[int]) -> None:
        """:param tids: of the vCPU threads."""
        self.tool: str | None = None
        self.run = run
        self.guest = guest
        self.tids = tids

    @classmethod
    def check_host(cls) -> None:
        """Refuse a host that cannot make it.

        :raise HostError: the sentence says what is missing.
        """

    async def prepare(self, deadline: Deadline, stack: AsyncExitStack) -> None:
        """Start what it needs, while the guest is still well.

        :param stack: ends it.
        """

    @abstractmethod
    async def send(self) -> None:
        """Make the request; no more than that, for the clock runs."""

    @abstractmethod
    async def answer(self, deadline: Deadline) -> Reply | None:
        """Wait for the answer. May be called again after a deadline that passed.

        :return: None if it did not come before the deadline.
        """

    def withdraw(self) -> bool:
        """Take back what hung, where QEMU can do nothing before that is done.

        :return: whether it was; there will be no answer then.
        """
        return False

    async def undo(self, deadline: Deadline) -> None:
        """Let the guest go on as before, once there was an answer."""
