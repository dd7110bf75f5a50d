# SPDX-License-Identifier: BSD-3-Clause
"""The QMP connection for the measured request, with a minimal client.

Everything else uses qemu.qmp (see `monitor`), where a reply takes several iterations of the event
loop, and the events that arrive with it come first. That adds 0.3 ms to a `stop` of 0.45 ms
(measured with tools/compare_clocks.py).
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
    """The answer to a request.

    :ivar at_ns: the time at which it arrived, in nanoseconds of the monotonic clock.
    :ivar error: QEMU's description of the error; None if the command succeeded.
    :ivar result: what the command returned; None if it failed.
    """

    at_ns: int
    error: str | None
    result: Any = None


class RequestLine:
    """A QMP monitor for the measured request. It cannot be used after a failure."""

    def __init__(self, name: str, connection: socket.socket) -> None:
        """Use a connection to a QMP monitor.

        :param connection: a connected socket, which the caller closes.
        """
        self._name = name
        self._socket = connection
        self._socket.setblocking(False)
        self._received = b""
        self._failure: MonitorFailed | None = None
        self._unanswered: str | None = None
        self._late: tuple[int, dict[str, Any]] | None = None

    async def connect(self, deadline: Deadline) -> None:
        """Wait for QEMU's greeting and negotiate capabilities.

        :raise MonitorFailed: the connection broke, or QEMU's answer is not as expected.
        :raise DeadlinePassed: QEMU does not greet in time.
        """
        what = f"The greeting of {self._name}"
        _, greeting = await deadline.wait_for(self._message(), what)
        if "QMP" not in greeting:
            raise self._failed(f"QEMU greeted with {greeting}")
        self.send("qmp_capabilities")
        if (answer := await self.answer(deadline)) is None or answer.error:
            raise self._failed("QEMU does not accept qmp_capabilities")

    def send(self, command: str, arguments: Mapping[str, object] | None = None) -> int:
        """Send a request.

        :return: the time just before the first byte was written, in nanoseconds of the monotonic
            clock.
        :raise MonitorFailed: the connection broke, or the previous request is still unanswered.
        """
        if self._failure is not None:
            raise self._failure
        if self._unanswered is not None:
            raise self._failed(f"QEMU did not answer {self._unanswered} before the deadline")
        message = {"execute": command, **({"arguments": arguments} if arguments else {})}
        text = json.dumps(message).encode() + b"\n"
        # Read the clock before the call, because QEMU may start to work, even on this CPU, before
        # the call returns.
        sent_ns = time.monotonic_ns()
        try:
            self._socket.sendall(text)
        except OSError as error:
            raise self._failed(f"{command} could not be sent: {error.strerror}") from None
        self._unanswered = command
        return sent_ns

    async def answer(self, deadline: Deadline) -> Answer | None:
        """Wait for the answer to the last request. This may be called again after None.

        :return: None if the deadline passed.
        :raise MonitorFailed: the connection broke, or QEMU sent something that is not QMP.
        """
        try:
            found = self._late or self._reply_attentively(deadline)
            if found is None:
                async with asyncio.timeout(deadline.remaining_s):
                    found = await self._reply()
        except TimeoutError:
            return None
        at_ns, reply = found
        if at_ns > deadline.at_ns:  # poll(2) may overrun the deadline: it counts milliseconds
            self._late = found
            return None
        self._unanswered = self._late = None
        return Answer(at_ns, reply.get("error", {}).get("desc"), reply.get("return"))

    def _reply_attentively(self, deadline: Deadline) -> tuple[int, dict[str, Any]] | None:
        """Block for up to `ATTENTIVE_S`, and return the reply and the time at which it arrived."""
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
        """Wait for the next message, which may be an event, and return its time and the message."""
        while True:
            try:
                data = await asyncio.get_running_loop().sock_recv(self._socket, CHUNK)
            except OSError as error:
                raise self._failed(f"the connection broke: {error.strerror}") from None
            now_ns = time.monotonic_ns()
            if messages := self._messages(data):
                # Only one request is made at a time, so all other messages are events.
                return now_ns, next((each for each in messages if "event" not in each), messages[0])

    def _messages(self, data: bytes) -> list[dict[str, Any]]:
        """Return the messages that `data` completes.

        :raise MonitorFailed: QEMU closed the connection, or a line is not a message.
        """
        if not data:
            raise self._failed("QEMU closed the connection")
        *lines, self._received = (self._received + data).split(b"\n")
        return [self._decoded(line) for line in lines]

    def _decoded(self, line: bytes) -> dict[str, Any]:
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise self._failed(f"QEMU sent a line that is not a JSON object: {line[:80]!r}")
        return message

    def _failed(self, why: str) -> MonitorFailed:
        self._failure = MonitorFailed(f"QMP monitor {self._name}: {why}.")
        return self._failure
