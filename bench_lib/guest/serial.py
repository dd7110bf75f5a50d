# SPDX-License-Identifier: BSD-3-Clause
"""A guest's serial line, on which it reports each pass over its memory, and damaged memory."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from bench_lib.deadline import Deadline
from bench_lib.errors import MemoryDamaged

_DAMAGE = re.compile(
    rb"!damage vcpu=([0-9a-f]{2}) page=([0-9a-f]{16})"
    rb" expected=([0-9a-f]{16}) found=([0-9a-f]{16})\n"
)
_MARKS = bytes(range(ord("A"), ord("Z") + 1))

SILENCE_S = 0.02
"""Seconds without data after which all that the guest had sent counts as read."""

READ_OUT_S = 0.2
"""The longest time, in seconds, to read what the guest had sent. A guest that runs never stops
sending."""

TURNS = 3
"""Iterations of the event loop after which the data that was in the socket has been read."""

ALARM = b"!"
"""The first byte of a report of damage. A guest sends this byte for nothing else."""


@dataclass(frozen=True)
class MemoryDamage:
    """A page whose contents have changed.

    :ivar vcpu: the number of the vCPU that found it.
    :ivar page: the number of the page in guest-physical memory.
    :ivar expected: what the page should have held: the number of the previous pass.
    :ivar found: what the page held.
    """

    vcpu: int
    page: int
    expected: int
    found: int


@dataclass
class Marks:
    """A parser of the bytes that a guest sends; guest-images/gup.S describes their format."""

    passes: dict[int, int] = field(default_factory=dict)
    """How many passes each vCPU has finished."""
    damage: list[MemoryDamage] = field(default_factory=list)
    _text: bytes = b""

    @property
    def alarm(self) -> bool:
        """Whether a report of damage has arrived at least in part."""
        return ALARM in self._text

    @property
    def rest(self) -> str:
        """The text that is neither a mark nor a complete report, for an error."""
        return self._text.decode(errors="replace").strip()

    def feed(self, data: bytes) -> None:
        """Parse data. Remove marks first, because they may be inside a report of damage."""
        for mark in data:
            if mark in _MARKS:
                vcpu = mark - ord("A")
                self.passes[vcpu] = self.passes.get(vcpu, 0) + 1
        self._text += data.translate(None, delete=_MARKS)
        end = 0
        for match in _DAMAGE.finditer(self._text):
            self.damage.append(MemoryDamage(*(int(group, 16) for group in match.groups())))
            end = match.end()
        self._text = self._text[end:].lstrip(b"\n")


class SerialLine(asyncio.Protocol):
    """The host's end of a guest's serial line."""

    def __init__(self) -> None:
        self.marks = Marks()
        self._changed = asyncio.Event()
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, connection: socket.socket) -> SerialLine:
        """Start to read from a connected socket, which `close()` closes."""
        loop = asyncio.get_running_loop()
        _, line = await loop.create_connection(cls, sock=connection)
        return line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.marks.feed(data)
        self._changed.set()

    def pause(self) -> None:
        """Stop reading, because reading the marks of a busy guest would disturb a measurement."""
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    async def resume(self) -> None:
        """Resume reading, and return after all that the guest sent during the pause was read."""
        self._read_on()
        limit = Deadline.after(READ_OUT_S)
        while not limit.passed:
            self._changed.clear()
            try:
                async with asyncio.timeout(SILENCE_S):
                    await self._changed.wait()
            except TimeoutError:
                return

    async def look(self) -> None:
        """Read what has arrived, without waiting for more."""
        self._read_on()
        for _ in range(TURNS):
            await asyncio.sleep(0)

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_reading():
            self._transport.resume_reading()

    @property
    def damage(self) -> str | None:
        """What the guest has reported about its memory; None if it has reported no damage."""
        if not self.marks.damage and self.marks.alarm:
            return (
                "The guest found its memory damaged, but its report is incomplete: "
                f"{self.marks.rest}"
            )
        for each in self.marks.damage:
            return (
                f"The guest found its memory damaged: vCPU {each.vcpu}, page {each.page:#x} held "
                f"{each.found:#x} instead of {each.expected:#x}."
            )
        return None

    def check_memory(self) -> None:
        """Check that the guest has reported no damage.

        :raise MemoryDamaged: it has; the message has the page and both numbers, if they arrived.
        """
        if self.damage is not None:
            raise MemoryDamaged(self.damage)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def passes(
        self,
        vcpus: int,
        count: int,
        deadline: Deadline,
        since: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        """Wait until each of `vcpus` vCPUs has finished `count` passes.

        :param since: how many passes of each vCPU do not count, because they were finished before.
        :raise DeadlinePassed: a vCPU has not finished them in time.
        :raise MemoryDamaged: the guest found a page changed.
        """

        async def enough() -> None:
            while any(
                self.marks.passes.get(vcpu, 0) < since.get(vcpu, 0) + count for vcpu in range(vcpus)
            ):
                # The rest of an incomplete report may still arrive; if not, the deadline passes.
                if self.marks.damage:
                    self.check_memory()
                self._changed.clear()
                await self._changed.wait()

        await deadline.wait_for(enough(), f"Pass {count} of every vCPU of the guest")
