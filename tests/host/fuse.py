# SPDX-License-Identifier: BSD-3-Clause
"""A file on a file system that can be told not to answer, and processes that wait for it.

Only an answer ends such a wait for certain, so tests let the file system answer before they kill a
process, unless the kill is what they test.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bench_lib import threads
from bench_lib.deadline import Deadline
from bench_lib.record import WaitsFor
from tests.conftest import HANG_S

MIB = 1 << 20
SIZE_MIB = 64


class FuseServer:
    """The file system of fuse_server.py, mounted on a folder. :ivar file: its only file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "memory"
        script = Path(__file__).with_name("fuse_server.py")
        self._process = subprocess.Popen(
            [sys.executable, script, folder, str(SIZE_MIB * MIB)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._heard("up")

    def hold(self) -> None:
        """Leave all requests to open, read or write the file unanswered from now on."""
        self._tell("hold")

    def has_kept(self) -> None:
        """Wait until a request is unanswered; from then on even SIGKILL does not end its wait."""
        self._tell("kept")

    def answer(self) -> None:
        """Answer the unanswered requests, and all later ones."""
        self._tell("answer")

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        self._heard(word)

    def _heard(self, word: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == f"{word}\n"

    def end(self) -> None:
        """Answer all requests, and unmount the file system."""
        self._process.communicate(timeout=HANG_S)


@contextmanager
def served(folder: Path) -> Iterator[FuseServer]:
    """Mount the file system on a new folder; at the end it answers and is unmounted."""
    folder.mkdir()
    server = FuseServer(folder)
    try:
        yield server
    finally:
        server.end()


@contextmanager
def started(
    server: FuseServer, *command: str | Path
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Start a program on the file, which prints `up`, and keep its requests back from then on.

    :param command: the program, to which the file is added as its last argument.
    :return: the program and its stdin. At the end the file system answers, and the program is
        killed.
    """
    child = subprocess.Popen(
        [*command, server.file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        server.hold()
        yield child, child.stdin
    finally:
        server.answer()
        child.kill()
        child.communicate(timeout=HANG_S)


@contextmanager
def locked(server: FuseServer, prefix: Sequence[str] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process with a vCPU, of which one thread holds mmap_lock and one waits for it.

    :param prefix: the beginning of its command line, which executes the rest.
    """
    script = Path(__file__).with_name("locked.py")
    with started(server, *prefix, sys.executable, script) as (child, stdin):
        for step, waits_for in ((b"0", WaitsFor.FUSE), (b"1", WaitsFor.LOCK)):
            stdin.write(step)
            until_one_waits_for(waits_for, child.pid)
        yield child


def until_one_waits_for(waits_for: WaitsFor, pid: int) -> None:
    """Wait until a thread of a process waits for this."""
    limit = Deadline.after(HANG_S)
    while waits_for not in {each.waits_for for each in threads.observe_all(pid)}:
        assert not limit.passed
