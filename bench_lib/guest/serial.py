# SPDX-License-Identifier: BSD-3-Clause
"""What a guest says on its serial line: a mark per pass, and damaged memory."""

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
"""A line on which nothing came for so long is read out."""

READ_OUT_S = 0.2
"""A guest that runs is never silent; what it had sent by then is read."""

TURNS = 3
"""Of the event loop, until what waits in the socket has been read."""

ALARM = b"!"
"""What a report of damage begins with; a guest sends it for nothing else."""


@dataclass(frozen=True)
class MemoryDamage:
    """A page that did not hold what it should.

    :ivar page: number of the page in guest-physical memory.
    :ivar expected: the number of the pass before; `found` is what was there.
    """

    vcpu: int
    page: int
    expected: int
    found: int


@dataclass
class Marks:
    """Reads the stream of a guest's marks; see guest-images/gup.S for their form."""

    passes: dict[int, int] = field(default_factory=dict)
    """Passes that each vCPU has finished."""
    damage: list[MemoryDamage] = field(default_factory=list)
    _text: bytes = b""

    @property
    def alarm(self) -> bool:
        """Whether a report of damage has at least begun."""
        return ALARM in self._text

    @property
    def rest(self) -> str:
        """What is no mark and no whole report, for people."""
        return self._text.decode(errors="replace").strip()

    def feed(self, data: bytes) -> None:
        """Take in what was read. Marks may stand inside a line of damage, so they go first."""
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
        """Start to listen on a connected socket, which is closed by `close()`."""
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
        """Do not read for a while: a busy guest's marks would be in a measurement's way."""
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    async def resume(self) -> None:
        """Read again, first of all what a guest that makes no progress has sent before."""
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
        """Read what has come, without waiting for more."""
        self._read_on()
        for _ in range(TURNS):
            await asyncio.sleep(0)

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_reading():
            self._transport.resume_reading()

    @property
    def damage(self) -> str | None:
        """What the guest has said of its memory; None as long as it is whole."""
        if not self.marks.damage and self.marks.alarm:
            return f"The guest found its memory damaged, and could not say where: {self.marks.rest}"
        for each in self.marks.damage:
            return (
                f"The guest found its memory damaged: vCPU {each.vcpu}, page {each.page:#x} held "
                f"{each.found:#x} instead of {each.expected:#x}."
            )
        return None

    def check_memory(self) -> None:
        """Raise what the guest has said of its memory, if that is not that it is whole.

        :raise MemoryDamaged: with the page and both numbers, as far as they have come.
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

        :param since: passes of each vCPU that do not count.

        :raise DeadlinePassed: one has not.
        :raise MemoryDamaged: the guest has found a page changed.
        """

        async def enough() -> None:
            while any(
                self.marks.passes.get(vcpu, 0) < since.get(vcpu, 0) + count for vcpu in range(vcpus)
            ):
                # A report that has only begun may have more to say; if not, the deadline passes.
                if self.marks.damage:
                    self.check_memory()
                self._changed.clear()
                await self._changed.wait()

        await deadline.wait_for(enough(), f"Pass {count} of every vCPU of the guest")
