# SPDX-License-Identifier: BSD-3-Clause
"""The QMP monitor for everything but the measured request. It is not used after a failure."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from qemu.qmp import EventListener, ExecuteError, Message, QMPClient, QMPError

from bench_lib.deadline import Deadline
from bench_lib.errors import DeadlinePassed, MonitorFailed, MonitorRefused

# qemu.qmp logs an error whenever a connection ends with its guest. kickbench reports those itself.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


class Monitor:
    """A QMP connection. After the first failure, every use raises that failure again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._client = QMPClient(name)
        self._failure: MonitorFailed | None = None
        self._listener = EventListener()
        self._client.register_listener(self._listener)

    @property
    def qemu_version(self) -> str:
        """The version in QEMU's greeting, such as 7.2.22 (Debian 1:7.2+dfsg-7)."""
        assert self._client.greeting is not None
        version: Any = self._client.greeting.QMP.version
        qemu = version["qemu"]
        number = f"{qemu['major']}.{qemu['minor']}.{qemu['micro']}"
        package = str(version["package"]).strip()
        return f"{number} ({package})" if package else number

    async def connect(self, connection: socket.socket, deadline: Deadline) -> None:
        """Wait for QEMU's greeting and negotiate capabilities, including out-of-band execution.

        :raise MonitorFailed: QEMU does not answer, or has ended.
        """
        try:
            await deadline.wait_for(
                self._client.connect(connection), f"The greeting of QMP monitor {self.name}"
            )
        except (QMPError, DeadlinePassed) as error:
            raise self._failed(str(error)) from None

    async def disconnect(self) -> None:
        """Close the connection. Do not raise an error if it is broken."""
        # The command that found the connection broken has raised its error already.
        with suppress(OSError, EOFError, QMPError):
            await self._client.disconnect()

    async def events(self) -> AsyncIterator[Message]:
        """Yield every event of the guest since the connection was made."""
        while True:
            yield await self._listener.get()

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        deadline: Deadline,
        out_of_band: bool = False,
        may_refuse: bool = False,
    ) -> Any:
        """Execute a command and return its value.

        :param out_of_band: whether to execute the command out of band, so that QEMU answers it
            even while another command blocks the main loop.
        :param may_refuse: whether an error answer leaves the monitor usable.
        :raise MonitorRefused: QEMU answered with an error, and `may_refuse` is set.
        :raise MonitorFailed: QEMU answered with an error or not in time, or the connection broke.
        """
        if self._failure is not None:
            raise self._failure
        try:
            async with asyncio.timeout(deadline.remaining_s):
                return await self._client.execute(command, arguments, oob=out_of_band)
        except TimeoutError:
            raise self._failed(f"QEMU did not answer {command} before the deadline.") from None
        except ExecuteError as error:
            if may_refuse:
                raise MonitorRefused(f"{self.name} refused {command}: {error}") from None
            raise self._failed(f"QEMU refused {command}: {error}") from None
        except (QMPError, OSError, EOFError) as error:
            raise self._failed(f"the connection broke during {command}: {error}") from None

    def _failed(self, why: str) -> MonitorFailed:
        self._failure = MonitorFailed(f"QMP monitor {self.name}: {why}")
        return self._failure
