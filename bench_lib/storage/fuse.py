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
from bench_lib.storage import pageout
from bench_lib.storage.pageout import GuestFile
from bench_lib.storage.store import Store

T = TypeVar("T")

FILE = "memory"
"""The name of the server's file."""

SIGNS_OF_DEATH = (GuestDied, MonitorFailed, DebuggerFailed, StorageFailed)
"""Errors that the end of the server may cause before it is seen: an access to its file kills QEMU
with SIGBUS."""


class Stall(StrEnum):
    """How the server stops answering, and its name in records."""

    HOLD = "fuse-hold"
    """It leaves reads unanswered, and answers everything else."""
    SYNC = "fuse-sync"
    """The same, and it refuses to read ahead."""
    STOP = "fuse-sigstop"
    """It is stopped by SIGSTOP, and answers nothing."""


WORDS = {Stall.HOLD: "hold", Stall.SYNC: "sync"}
"""What the server is told for each stall that it makes itself."""


class FuseStore(Store):
    """A FUSE server in a process of its own."""

    def __init__(
        self,
        child: process.Child,
        words: asyncio.StreamReader,
        stall: Stall,
        file: GuestFile,
    ) -> None:
        self._child = child
        self._words = words
        self._stall = stall
        self._file = file
        self.mechanism = stall
        self.memory_file = file.path

    @classmethod
    async def start(
        cls,
        run: Run,
        name: str,
        size_mib: int,
        stall: Stall,
        first: int,
        deadline: Deadline,
        stack: AsyncExitStack,
    ) -> Self:
        """Start a server, and wait until its file exists.

        :param name: a name that is unique on this host.
        :param size_mib: the size of the file.
        :param stall: how it will stop answering.
        :param first: where in the file the part begins that is pushed out; see `GuestFile`.
        :param stack: the exit stack that ends the server.
        :raise StorageFailed: the server ended at once; the message has its last line of output.
        """
        folder = run.folder / name
        folder.mkdir()
        stack.callback(folder.rmdir)
        output, theirs = os.pipe2(os.O_CLOEXEC)
        size = size_mib << 20
        command = [sys.executable, "-S", "-m", "bench_lib.storage.fuse_server"]
        try:
            child = stack.enter_context(
                process.started(
                    [*command, str(folder), str(size)],
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
        path = f"{folder}/{FILE}"
        file = GuestFile(f"/proc/{child.pid}/root{path}", path, size, first)
        store = cls(child, words, stall, file)
        version = await store._hears("up", deadline)
        store.description = f"FUSE (libfuse {version})"
        return store

    async def stall(self, pid: int, deadline: Deadline) -> None:
        async with pageout.stopped(pid, deadline) as guest:
            guest.push_out_file(self._file, deadline)
            if self._stall is Stall.STOP:
                self._child.signal(signal.SIGSTOP)
            else:
                word = WORDS[self._stall]
                self._tell(word)
                await self._hears(word, deadline)

    def release(self) -> None:
        self._child.signal(signal.SIGCONT)
        self._tell("answer")

    def _tell(self, word: str) -> None:
        with suppress(BrokenPipeError):
            self._child.stdin.write(f"{word}\n".encode())

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
