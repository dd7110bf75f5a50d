# SPDX-License-Identifier: BSD-3-Clause
"""Calls to libvirt, made by separate processes; see `client`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, TypeVar

import msgspec

from bench_lib import process
from bench_lib.deadline import Deadline
from bench_lib.errors import DeadlinePassed, LibvirtFailed
from bench_lib.libvirt.client import Answer, Call
from bench_lib.libvirt.daemon import Daemon
from bench_lib.ownership import Run
from bench_lib.settings import CHECKOUT

T = TypeVar("T")

CAUSELESS = "cause is unknown"
"""What libvirt's message has if it has lost the cause of an error."""

LONGEST_ANSWER = 1 << 20
"""Bytes; a domain's XML has some thousand."""


class Client:
    """A process that is connected to a libvirtd, and makes one call at a time."""

    def __init__(
        self, name: str, daemon: Daemon, child: process.Child, reader: asyncio.StreamReader
    ) -> None:
        self._name = name
        self._daemon = daemon
        self._child = child
        self._reader = reader
        self._starts = daemon.starts
        self._answering: asyncio.Task[Answer] | None = None

    def send(self, method: str, *arguments: Any, domain: str | None = None) -> None:
        """Make a call; see `Call`."""
        call = msgspec.json.encode(Call(method, list(arguments), domain))
        with suppress(BrokenPipeError):  # `_answer` reports why the client ended
            self._child.stdin.write(call + b"\n")
        self._answering = asyncio.create_task(self._answer())

    async def answer(self, deadline: Deadline) -> Answer | None:
        """Wait for the answer to the last call. May be called again after a deadline that passed.

        :return: None if it did not arrive before the deadline.
        :raise LibvirtFailed: libvirtd, the client or their connection ended.
        """
        assert self._answering is not None
        await asyncio.wait({self._answering}, timeout=deadline.remaining_s)
        if not self._answering.done():
            return None
        answer = self._answering.result()
        if answer.disconnected:
            await self._daemon.check_lives()
            raise LibvirtFailed(
                f"libvirt's client {self._name} has no connection to libvirtd: {answer.refusal}."
            )
        return answer

    async def call(
        self, method: str, *arguments: Any, domain: str | None = None, deadline: Deadline
    ) -> Answer:
        """Make a call and wait for its answer.

        :raise LibvirtFailed: libvirt refused it.
        :raise DeadlinePassed: it was not answered in time.
        """
        self.send(method, *arguments, domain=domain)
        if (answer := await self.answer(deadline)) is None:
            raise DeadlinePassed(f"libvirt's answer to {method} did not come before its deadline.")
        self._check(method, answer)
        return answer

    async def opened(self, deadline: Deadline) -> None:
        """Wait until the client is connected.

        :raise LibvirtFailed: it cannot connect.
        """
        self._answering = asyncio.create_task(self._answer())
        if (answer := await self.answer(deadline)) is None:
            raise DeadlinePassed(f"libvirt's client {self._name} was not connected in time.")
        self._check("open", answer)

    async def version(self, deadline: Deadline) -> str:
        """The version of the libvirtd, such as `libvirt 9.0.0`."""
        number = (await self.call("getLibVersion", deadline=deadline)).result
        assert isinstance(number, int)
        return f"libvirt {number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"

    async def unless_refused(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` while the last call has not been refused.

        :raise LibvirtFailed: libvirt refused the call before the work was done.
        """
        assert self._answering is not None
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait({working, self._answering}, return_when=asyncio.FIRST_COMPLETED)
            if self._answering.done() and not working.done():
                answer = await self.answer(Deadline.after(0))
                assert answer is not None
                self._check("the migration", answer)
            return await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    def _check(self, method: str, answer: Answer) -> None:
        if answer.refusal is not None:
            # Some errors, such as that of a QEMU that libvirtd cannot probe, are only in its log.
            why = (
                self._daemon.last_words("error", "warning")
                if CAUSELESS in str(answer.refusal)
                else ""
            )
            raise LibvirtFailed(f"libvirt refused {method}: {answer.refusal}{why}.")

    async def _answer(self) -> Answer:
        line = await self._reader.readline()
        try:
            return msgspec.json.decode(line, type=Answer)
        except msgspec.MsgspecError:
            # The client ended. The last line of its traceback has the cause.
            text = (line + await self._reader.read(LONGEST_ANSWER)).decode(errors="replace")
            last = (text.strip().splitlines() or ["it wrote nothing"])[-1]
            raise LibvirtFailed(f"libvirt's client {self._name} ended: {last}.") from None

    @property
    def outdated(self) -> bool:
        """Whether libvirtd was started again after this client had been started."""
        return self._starts != self._daemon.starts

    def close(self) -> None:
        if self._answering is not None:
            self._answering.cancel()


@asynccontextmanager
async def connected(run: Run, name: str, daemon: Daemon) -> AsyncIterator[Client]:
    """Start a client, and kill it when the context is left, even during a call.

    The client connects in the background; `opened` waits for that.
    """
    async with AsyncExitStack() as stack:
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            child = stack.enter_context(
                process.started(
                    [sys.executable, "-m", "bench_lib.libvirt.client", daemon.uri],
                    env={**run.mark, "PYTHONPATH": str(CHECKOUT)},
                    output=theirs,
                    stdin_pipe=True,
                )
            )
        finally:
            os.close(theirs)
        reader = asyncio.StreamReader(limit=LONGEST_ANSWER)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb", buffering=0)
        )
        stack.callback(transport.close)
        client = Client(name, daemon, child, reader)
        stack.callback(client.close)
        yield client
