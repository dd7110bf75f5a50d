# SPDX-License-Identifier: BSD-3-Clause
"""The QMP monitor for all but the measured request, trusted only until its first failure."""

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

# The library logs every connection that ends with its guest as an error. We report those.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


class Monitor:
    """One QMP connection. After the first failure every use raises that failure again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._client = QMPClient(name)
        self._failure: MonitorFailed | None = None
        self._listener = EventListener()
        self._client.register_listener(self._listener)

    @property
    def qemu_version(self) -> str:
        """As QEMU says it in its greeting: 7.2.22 (Debian 1:7.2+dfsg-7)."""
        assert self._client.greeting is not None
        version: Any = self._client.greeting.QMP.version
        qemu = version["qemu"]
        number = f"{qemu['major']}.{qemu['minor']}.{qemu['micro']}"
        package = str(version["package"]).strip()
        return f"{number} ({package})" if package else number

    async def connect(self, connection: socket.socket, deadline: Deadline) -> None:
        """Greet and negotiate, out-of-band execution included.

        :raise MonitorFailed: QEMU does not answer, or went away.
        """
        try:
            await deadline.wait_for(
                self._client.connect(connection), f"The greeting of QMP monitor {self.name}"
            )
        except (QMPError, DeadlinePassed) as error:
            raise self._failed(str(error)) from None

    async def disconnect(self) -> None:
        """Close the connection; one that has broken is closed as quietly."""
        # How it broke has been reported where it mattered.
        with suppress(OSError, EOFError, QMPError):
            await self._client.disconnect()

    async def events(self) -> AsyncIterator[Message]:
        """The guest's events, from the connection's beginning on, as they come."""
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
        """Execute a command; its value.

        :param out_of_band: also while another command keeps QEMU's main loop.
        :param may_refuse: a refusal is no failure of the monitor, which stays of use.

        :raise MonitorFailed: QEMU answered with an error or not in time, or went away.
        """
        if self._failure is not None:
            raise self._failure
        try:
            async with asyncio.timeout(deadline.remaining_s):
                return await self._client.execute(command, arguments, oob=out_of_band)
        except TimeoutError:
            raise self._failed(f"{command} was not answered before its deadline.") from None
        except ExecuteError as error:
            if may_refuse:
                raise MonitorRefused(f"{self.name} refused {command}: {error}") from None
            raise self._failed(f"{command} was refused: {error}") from None
        except (QMPError, OSError, EOFError) as error:
            raise self._failed(f"the connection broke during {command}: {error}") from None

    def _failed(self, why: str) -> MonitorFailed:
        self._failure = MonitorFailed(f"QMP monitor {self.name}: {why}")
        return self._failure
