# SPDX-License-Identifier: BSD-3-Clause
"""A file on FUSE whose server stops answering; see `fuse_server`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from enum import StrEnum
from typing import Any, Self, TypeVar

from bench_lib import process
from bench_lib.deadline import Deadline
from bench_lib.errors import DebuggerFailed, GuestDied, MonitorFailed, StorageFailed
from bench_lib.ownership import Run
from bench_lib.settings import import_path
from bench_lib.storage.store import Store

T = TypeVar("T")

SIGNS_OF_DEATH = (GuestDied, MonitorFailed, DebuggerFailed, StorageFailed)
"""Errors that the end of the server may cause before it is seen: an access to its file kills QEMU
with SIGBUS."""


class Stall(StrEnum):
    """How the server stops answering, as on its command line."""

    HOLD = "hold"
    """It leaves reads unanswered, and answers everything else."""
    SYNC = "sync"
    """The same, and it refuses to read ahead."""


class FuseStore(Store):
    """A FUSE server in a process of its own."""

    def __init__(self, child: process.Child, words: asyncio.StreamReader) -> None:
        self._child = child
        self._words = words

    @classmethod
    async def start(
        cls,
        run: Run,
        name: str,
        size_mib: int,
        first: int,
        stall: Stall,
        deadline: Deadline,
        stack: AsyncExitStack,
    ) -> Self:
        """Start a server, and wait until its file exists.

        :param name: a name that is unique on this host.
        :param size_mib: the size of the file.
        :param first: the first byte that is not read.
        :param stack: the exit stack that ends the server.
        :raise StorageFailed: the server ended at once; the message has its last line of output.
        """
        folder = run.folder / name
        folder.mkdir()
        stack.callback(folder.rmdir)
        output, theirs = os.pipe2(os.O_CLOEXEC)
        command = [sys.executable, "-S", "-m", "bench_lib.storage.fuse_server"]
        try:
            child = stack.enter_context(
                process.started(
                    [*command, str(folder), str(size_mib << 20), str(first), stall],
                    env={**run.mark, "PYTHONPATH": import_path()},
                    output=theirs,
                    stdin_pipe=True,
                )
            )
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(theirs)
        words = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(words), os.fdopen(output, "rb", buffering=0)
        )
        stack.callback(transport.close)
        store = cls(child, words)
        version = await store._hears("up", deadline)
        store.description = f"FUSE (libfuse {version})"
        store.memory_file = f"/proc/{child.pid}/root{folder}/memory"
        return store

    async def stall(self, pid: int, deadline: Deadline) -> None:
        await self._hears("stalls", deadline)

    def stop(self) -> None:
        """Stop the server, so that it answers nothing at all until the release."""
        self._child.signal(signal.SIGSTOP)

    def release(self) -> None:
        self._child.signal(signal.SIGCONT)
        with suppress(BrokenPipeError):
            self._child.stdin.write(b"answer\n")

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await self._child.during(work, SIGNS_OF_DEATH)
        except process.Ended as end:
            raise StorageFailed(f"The FUSE server {process.ended(end.status)}.") from None

    async def _hears(self, word: str, deadline: Deadline) -> str:
        """Wait for a word of the server, and return the rest of the line.

        :raise StorageFailed: the server ended first; the message has its last line of output.
        """
        last = "it ended silently"
        while line := await deadline.wait_for(self._words.readline(), "The FUSE server's answer"):
            text = line.decode(errors="replace").strip()
            if text.split(" ")[0] == word:
                return text.partition(" ")[2]
            last = text or last
        raise StorageFailed(f"The FUSE server failed: {last}")
