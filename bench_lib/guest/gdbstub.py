# SPDX-License-Identifier: BSD-3-Clause
"""The debugger's side of QEMU's gdbstub: enough to interrupt a guest and continue it."""

from __future__ import annotations

import asyncio
import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bench_lib.deadline import Deadline
from bench_lib.errors import MonitorFailed
from bench_lib.process import ATTENTIVE_S

BREAK = b"\x03"
CONTINUE = b"+$c#63"
"""An acknowledgement of the stop reply, and the packet `c` (continue)."""

_STOP_REPLY = re.compile(rb"\$[TS][^#]*#[0-9a-f]{2}")

CHUNK = 4096


class GdbStub:
    """A connection to a gdbstub, in the GDB remote serial protocol."""

    def __init__(self, name: str, connection: socket.socket) -> None:
        """Use a connection to a gdbstub.

        :param connection: a connected socket, which the caller closes.
        """
        self._name = name
        self._socket = connection
        self._socket.setblocking(False)
        self._received = b""
        self._stopped_ns: int | None = None

    def interrupt(self) -> int:
        """Ask the gdbstub to stop the guest.

        :return: the time just before the request, in nanoseconds of the monotonic clock.
        :raise MonitorFailed: the connection broke.
        """
        # QEMU reports every stop. Reports of earlier stops are not the answer, so discard them.
        with suppress(BlockingIOError), self._broken_connection():
            while self._socket.recv(CHUNK):
                pass
        self._forget()
        sent_ns = time.monotonic_ns()
        self._send(BREAK)
        return sent_ns

    async def stopped(self, deadline: Deadline) -> int | None:
        """Wait for the stop reply. Further calls return its time, until `interrupt` or `resume`.

        :return: the time at which it arrived, in nanoseconds of the monotonic clock; None if the
            deadline passed.
        :raise MonitorFailed: the connection broke.
        """
        attentive_s = min(ATTENTIVE_S, deadline.remaining_s)
        with self._broken_connection():
            if self._stopped_ns is None and select.select([self._socket], [], [], attentive_s)[0]:
                self._keep(self._socket.recv(CHUNK))
            try:
                while self._stopped_ns is None:
                    async with asyncio.timeout(deadline.remaining_s):
                        data = await asyncio.get_running_loop().sock_recv(self._socket, CHUNK)
                    self._keep(data)
            except TimeoutError:
                return None
        return self._stopped_ns

    def resume(self) -> None:
        """Let the guest run again.

        :raise MonitorFailed: the connection broke.
        """
        self._forget()
        self._send(CONTINUE)

    def _keep(self, data: bytes) -> None:
        """Add data that has just arrived, and note the time if it completes a stop reply.

        :raise MonitorFailed: there is no data, because QEMU has closed the connection.
        """
        now_ns = time.monotonic_ns()
        if not data:
            raise MonitorFailed(f"The gdbstub of {self._name} closed its connection.")
        self._received += data
        if _STOP_REPLY.search(self._received):
            self._stopped_ns = now_ns

    def _forget(self) -> None:
        """Forget what was received, because it answers no later request."""
        self._received = b""
        self._stopped_ns = None

    def _send(self, data: bytes) -> None:
        with self._broken_connection():
            self._socket.sendall(data)

    @contextmanager
    def _broken_connection(self) -> Iterator[None]:
        """Turn an error of the socket into a `MonitorFailed`."""
        try:
            yield
        except BlockingIOError:
            raise
        except OSError as error:
            raise MonitorFailed(
                f"The connection to the gdbstub of {self._name} broke: {error.strerror}."
            ) from None
