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
from dataclasses import dataclass
from typing import Any

from bench_lib.deadline import Deadline
from bench_lib.errors import MonitorFailed

ATTENTIVE_S = 0.1
"""How long only the answer is waited for, with the event loop standing still. What comes later
may come by way of the loop, whose 0.3 ms are then less than one in three hundred."""

CHUNK = 65536


@dataclass(frozen=True)
class Answer:
    """What came back on a request, and when; moments on the monotonic clock, nanoseconds.

    :ivar error: QEMU's error text; None when the command did what it should.
    """

    sent_ns: int
    answered_ns: int
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

    async def connect(self, deadline: Deadline) -> None:
        """Greet and negotiate.

        :raise MonitorFailed: QEMU went away.
        :raise DeadlinePassed: it does not answer.
        """
        what = f"The greeting of {self._name}"
        _, greeting = await deadline.wait_for(self._message(), what)
        if "QMP" not in greeting:
            raise self._failed(f"it greeted with {greeting}")
        if (answer := await self.ask("qmp_capabilities", deadline)) is None or answer.error:
            raise self._failed("it does not negotiate")

    async def ask(self, command: str, deadline: Deadline) -> Answer | None:
        """Make a request: from its first byte written to its reply read.

        :return: None if no reply came before the deadline.
        :raise MonitorFailed: the connection broke.
        """
        if self._failure is not None:
            raise self._failure
        text = json.dumps({"execute": command}).encode() + b"\n"
        # Taken before, for QEMU may begin, and even take this CPU, before the call returns.
        sent_ns = time.monotonic_ns()
        try:
            self._socket.sendall(text)
        except OSError as error:
            raise self._failed(f"{command} could not be sent: {error.strerror}") from None
        try:
            found = self._reply_attentively(deadline)
            if found is None:
                async with asyncio.timeout(deadline.remaining_s):
                    found = await self._reply()
        except TimeoutError:
            self._failed(f"{command} was not answered before its deadline")
            return None
        answered_ns, reply = found
        if answered_ns > deadline.at_ns:  # poll(2) counts in whole milliseconds
            self._failed(f"{command} was answered after its deadline")
            return None
        return Answer(sent_ns, answered_ns, reply.get("error", {}).get("desc"))

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
