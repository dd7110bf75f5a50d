# SPDX-License-Identifier: BSD-3-Clause
"""A file on FUSE whose server stops answering; see `fuse_server` for the program."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack, ExitStack, suppress
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

SIGNS_OF_DEATH = (GuestDied, MonitorFailed, DebuggerFailed, StorageFailed)
"""Errors that the end of the server may cause before it is seen: an access to its file kills QEMU
with SIGBUS."""


SERVER = ("-S", "-m", "bench_lib.storage.fuse_server")
"""The arguments of Python that run the server's program."""


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


class FuseServer:
    """A FUSE server in a process of its own.

    :ivar child: the process.
    :ivar output: the descriptor from which its words are read; it does not block.
    :ivar inside: the path of the file in the server's mount namespace.
    :ivar path: the path of the file in ours.
    """

    def __init__(self, run: Run, name: str, size: int, stack: AsyncExitStack | ExitStack) -> None:
        """Start a server. It says `up` once its file exists.

        :param name: a name that is unique on this host.
        :param size: the size of the file in bytes.
        :param stack: the exit stack that ends the server.
        """
        # Symbolic links are resolved here: an absolute one would lead out of the server's root.
        folder = (run.folder / name).resolve()
        folder.mkdir()
        stack.callback(folder.rmdir)
        self.inside = f"{folder}/memory"
        self.output, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        stack.callback(os.close, self.output)
        os.set_blocking(theirs, True)
        try:
            self.child = stack.enter_context(
                process.started(
                    [sys.executable, *SERVER, self.inside, str(size)],
                    env={**run.mark, "PYTHONPATH": import_path()},
                    output=theirs,
                    stdin_pipe=True,
                )
            )
        finally:
            os.close(theirs)
        self.path = f"/proc/{self.child.pid}/root{self.inside}"
        self._printed = b""

    def tell(self, word: str) -> None:
        """Write a word to the server. It repeats the word once it has obeyed."""
        with suppress(BrokenPipeError):
            self.child.stdin.write(f"{word}\n".encode())

    def said(self, word: str) -> str | None:
        """Return the rest of the line that begins with a word, if the server has printed it.

        :raise StorageFailed: the server has ended; the message has its last line of output.
        """
        ended = False
        with suppress(BlockingIOError):
            while data := os.read(self.output, 65536):
                self._printed += data
            ended = True
        lines = self._printed.decode(errors="replace").split("\n")
        # libfuse may print warnings before. The last line may not be complete.
        for line in lines[:-1]:
            if line.split(" ")[0] == word:
                return line.partition(" ")[2]
        if ended:
            last = next((each for each in reversed(lines) if each.strip()), "it ended silently")
            raise StorageFailed(f"The FUSE server failed: {last}")
        return None


class FuseStore(Store):
    """A guest's memory that is the file of a FUSE server."""

    def __init__(self, run: Run, server: FuseServer, stall: Stall, file: GuestFile) -> None:
        self._run = run
        self._server = server
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
        size = size_mib << 20
        server = FuseServer(run, name, size, stack)
        store = cls(run, server, stall, GuestFile(server.path, server.inside, size, first))
        store.description = f"FUSE (libfuse {await store._hears('up', deadline)})"
        return store

    async def stall(self, pid: int, deadline: Deadline) -> None:
        async with pageout.stopped(pid, deadline) as guest:
            await guest.push_out_file(self._run, self._file, deadline)
            if self._stall is Stall.STOP:
                self._server.child.signal(signal.SIGSTOP)
            else:
                self._server.tell(WORDS[self._stall])
                await self._hears(WORDS[self._stall], deadline)

    def release(self) -> None:
        self._server.child.signal(signal.SIGCONT)
        self._server.tell("answer")

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await self._server.child.during(work, SIGNS_OF_DEATH)
        except process.Ended as end:
            raise StorageFailed(f"The FUSE server {process.ended(end.status)}.") from None

    async def _hears(self, word: str, deadline: Deadline) -> str:
        return await deadline.poll(lambda: self._server.said(word), f"`{word}` of the FUSE server")
