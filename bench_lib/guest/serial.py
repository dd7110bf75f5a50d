# SPDX-License-Identifier: BSD-3-Clause
"""A guest's two serial ports: marks of its passes over memory on one, text on the other."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from bench_lib.deadline import Deadline
from bench_lib.errors import MemoryDamaged

_DAMAGE = re.compile(
    rb"!damage vcpu=([0-9a-f]{2}) page=([0-9a-f]{16})"
    rb" expected=([0-9a-f]{16}) found=([0-9a-f]{16})\r?\n"
)

SILENCE_S = 0.02
"""Seconds without data after which all that the guest had sent counts as read."""

READ_OUT_S = 0.2
"""The longest time, in seconds, to read what the guest had sent. A guest that runs never stops
sending."""

TURNS = 3
"""Iterations of the event loop after which the data that was in the socket has been read."""

ALARM = b"!damage"
"""How a report of damage starts."""

LINE = 200
"""How many characters of an incomplete report an error has."""

KEPT = 8192
"""How many bytes of text are kept, of the end. A kernel that panics prints less after its last
words."""


@dataclass(frozen=True)
class MemoryDamage:
    """A page whose contents have changed.

    :ivar vcpu: the number of the vCPU that found it.
    :ivar page: the number of the page in guest-physical memory; in a Linux guest, in the share of
        that vCPU.
    :ivar expected: what the previous pass has written to the page.
    :ivar found: what the page held.
    """

    vcpu: int
    page: int
    expected: int
    found: int


@dataclass
class Marks:
    """A parser of the first port: each byte is the number of a vCPU that finished a pass."""

    passes: Counter[int] = field(default_factory=Counter)
    """How many passes each vCPU has finished."""

    def feed(self, data: bytes) -> None:
        """Count the marks in data."""
        self.passes.update(data)


@dataclass
class Text:
    """A parser of the second port: text, which may have reports of damage in it.

    guest-images/gup.S describes the format of a report.
    """

    damage: list[MemoryDamage] = field(default_factory=list)
    _rest: bytes = b""

    @property
    def incomplete(self) -> str | None:
        """A report of damage that has arrived only in part; None if there is none."""
        at = self._rest.rfind(ALARM)
        if at < 0:
            at = self._rest.rfind(b"\n") + 1
        found = self._rest[at:]
        starts = found.startswith(ALARM) or (found != b"" and ALARM.startswith(found))
        return found.decode(errors="replace").strip() if starts else None

    @property
    def rest(self) -> str:
        """The end of the text that is not a complete report."""
        return self._rest.decode(errors="replace").strip()

    def feed(self, data: bytes) -> None:
        """Take reports of damage out of the text, and keep the end of what is left."""

        def take(match: re.Match[bytes]) -> bytes:
            self.damage.append(MemoryDamage(*(int(group, 16) for group in match.groups())))
            return b""

        self._rest = _DAMAGE.sub(take, self._rest + data)[-KEPT:]


class _Port(asyncio.Protocol):
    """The host's end of one serial port."""

    def __init__(self, feed: Callable[[bytes], None]) -> None:
        self._feed = feed
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, connection: socket.socket, feed: Callable[[bytes], None]) -> _Port:
        """Start to read from a connected socket, which `close()` closes.

        :param feed: called with all that arrives.
        """
        loop = asyncio.get_running_loop()
        _, port = await loop.create_connection(lambda: cls(feed), sock=connection)
        return port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._feed(data)

    def read(self, *, go_on: bool) -> None:
        """Start or stop to read."""
        if self._transport is None or self._transport.is_reading() is go_on:
            return
        if go_on:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class SerialLine:
    """The host's end of a guest's two serial ports."""

    def __init__(self) -> None:
        self.marks = Marks()
        self.reports = Text()
        self._changed = asyncio.Event()
        self._ports: list[_Port] = []

    @classmethod
    async def open(cls, marks: socket.socket, text: socket.socket) -> SerialLine:
        """Start to read from two connected sockets, which `close()` closes."""
        line = cls()
        for connection, feed in ((marks, line.marks.feed), (text, line.reports.feed)):
            line._ports.append(await _Port.open(connection, line._noticed(feed)))
        return line

    def _noticed(self, feed: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def take(data: bytes) -> None:
            feed(data)
            self._changed.set()

        return take

    def pause(self) -> None:
        """Stop reading, because reading the marks of a busy guest would disturb a measurement."""
        for port in self._ports:
            port.read(go_on=False)

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
        for port in self._ports:
            port.read(go_on=True)

    @property
    def text(self) -> str:
        """The end of the text that the guest has sent: the last 8 KiB, without reports of damage.

        A guest with an operating system has its kernel's console there.
        """
        return self.reports.rest

    @property
    def damage(self) -> str | None:
        """What the guest has reported about its memory; None if it has reported no damage."""
        incomplete = self.reports.incomplete
        if not self.reports.damage and incomplete is not None:
            return (
                "The guest found its memory damaged, but its report is incomplete: "
                f"{incomplete[:LINE]}"
            )
        for each in self.reports.damage:
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
        for port in self._ports:
            port.close()

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
                self.marks.passes[vcpu] < since.get(vcpu, 0) + count for vcpu in range(vcpus)
            ):
                # The rest of an incomplete report may still arrive; if not, the deadline passes.
                if self.reports.damage:
                    self.check_memory()
                self._changed.clear()
                await self._changed.wait()

        await deadline.wait_for(enough(), f"Pass {count} of every vCPU of the guest")
