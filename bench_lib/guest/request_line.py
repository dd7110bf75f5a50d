# SPDX-License-Identifier: BSD-3-Clause
"""The QMP connection for measured requests: as bare as an operator's shortest script.

Everything else goes through qemu.qmp (see `monitor`). Its reply passes several turns of the
event loop, and the events that come with it do so first: 0.3 ms on top of a `stop` that takes
0.45 ms (tools/compare_clocks.py). So the measured request has a client of its own.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench_lib.deadline import Deadline
from bench_lib.errors import MonitorFailed
from bench_lib.process import ATTENTIVE_S

CHUNK = 65536


@dataclass(frozen=True)
class Answer:
    """What came back on a request.

    :ivar at_ns: when, on the monotonic clock, nanoseconds.
    :ivar error: QEMU's error text; None when the command did what it should.
    """

    at_ns: int
    error: str | None


class RequestLine:
    """A QMP monitor that a request is made on. After a failure it is of no more use."""

    def __init__(self, name: str, connection: socket.socket) -> None:
        """:param connection: a connected socket; whoever made it closes it."""
        self._name = name
        self._socket = connection
        self._socket.setblocking(False)
        self._received = b""
        self._failure: MonitorFailed | None = None
        self._unanswered: str | None = None
        self._late: tuple[int, dict[str, Any]] | None = None

    async def connect(self, deadline: Deadline) -> None:
        """Greet and negotiate.

        :raise MonitorFailed: QEMU went away.
        :raise DeadlinePassed: it does not answer.
        """
        what = f"The greeting of {self._name}"
        _, greeting = await deadline.wait_for(self._message(), what)
        if "QMP" not in greeting:
            raise self._failed(f"it greeted with {greeting}")
        self.send("qmp_capabilities")
        if (answer := await self.answer(deadline)) is None or answer.error:
            raise self._failed("it does not negotiate")

    def send(self, command: str, arguments: Mapping[str, object] | None = None) -> int:
        """Make a request.

        :return: the moment before its first byte was written; monotonic clock, nanoseconds.
        :raise MonitorFailed: the connection broke, or the request before has not been answered.
        """
        if self._failure is not None:
            raise self._failure
        if self._unanswered is not None:
            raise self._failed(f"{self._unanswered} was not answered before its deadline")
        message = {"execute": command, **({"arguments": arguments} if arguments else {})}
        text = json.dumps(message).encode() + b"\n"
        # Taken before, for QEMU may begin, and even take this CPU, before the call returns.
        sent_ns = time.monotonic_ns()
        try:
            self._socket.sendall(text)
        except OSError as error:
            raise self._failed(f"{command} could not be sent: {error.strerror}") from None
        self._unanswered = command
        return sent_ns

    async def answer(self, deadline: Deadline) -> Answer | None:
        """Wait for the reply to what was sent last; may be called again if it did not come.

        :return: None if no reply came before the deadline.
        :raise MonitorFailed: the connection broke.
        """
        try:
            found = self._late or self._reply_attentively(deadline)
            if found is None:
                async with asyncio.timeout(deadline.remaining_s):
                    found = await self._reply()
        except TimeoutError:
            return None
        at_ns, reply = found
        if at_ns > deadline.at_ns:  # poll(2) counts in whole milliseconds
            self._late = found
            return None
        self._unanswered = self._late = None
        return Answer(at_ns, reply.get("error", {}).get("desc"))

    def _reply_attentively(self, deadline: Deadline) -> tuple[int, dict[str, Any]] | None:
        """The reply and when it came, if it comes within `ATTENTIVE_S`."""
        limit = min(deadline.at_ns, Deadline.after(ATTENTIVE_S).at_ns)
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        while (left_ns := limit - time.monotonic_ns()) > 0:
            if not waiting.poll(left_ns / 1e6):
                return None
            try:
                data = self._socket.recv(CHUNK)
            except OSError as error:
                raise self._failed(f"the connection broke: {error.strerror}") from None
            now_ns = time.monotonic_ns()
            for message in self._messages(data):
                if "event" not in message:
                    return now_ns, message
        return None

    async def _reply(self) -> tuple[int, dict[str, Any]]:
        while True:
            now_ns, message = await self._message()
            if "event" not in message:
                return now_ns, message

    async def _message(self) -> tuple[int, dict[str, Any]]:
        """The next message, an event or not, and when it was complete."""
        while True:
            try:
                data = await asyncio.get_running_loop().sock_recv(self._socket, CHUNK)
            except OSError as error:
                raise self._failed(f"the connection broke: {error.strerror}") from None
            now_ns = time.monotonic_ns()
            if messages := self._messages(data):
                # One request at a time: whatever else came with it is an event.
                return now_ns, next((each for each in messages if "event" not in each), messages[0])

    def _messages(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that `data` completes."""
        if not data:
            raise self._failed("QEMU closed the connection")
        *lines, self._received = (self._received + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def _failed(self, why: str) -> MonitorFailed:
        self._failure = MonitorFailed(f"QMP monitor {self._name}: {why}.")
        return self._failure
