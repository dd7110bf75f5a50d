# SPDX-License-Identifier: BSD-3-Clause
"""Memory whose pages never arrive because it is a file on FUSE whose server does not answer."""

from __future__ import annotations

import os
import select
import sys
from contextlib import ExitStack, suppress

from bench_lib import process
from bench_lib.deadline import Deadline
from bench_lib.errors import ProbeFailed
from bench_lib.kvm.programs import HUGE_PAGE
from bench_lib.ownership import Run
from bench_lib.settings import import_path
from bench_lib.storage.fuse import WORDS, Stall

START_S = 20.0
"""Seconds that the server may take to start: it takes a tenth of a second, or two seconds under
emulation."""

SERVER = ("-S", "-m", "bench_lib.storage.fuse_server")
"""The arguments of Python that run the server's program."""


class FuseMemory:
    """A file on a FUSE server of its own, which answers no read.

    :ivar path: the file, one huge page long.
    """

    def __init__(self, run: Run, stall: Stall, stack: ExitStack) -> None:
        """Start the server, and wait until the file exists.

        :param stack: ends the server.
        :raise ProbeFailed: the server ended, or did not start in time.
        """
        folder = run.folder / "fuse"
        folder.mkdir()
        stack.callback(folder.rmdir)
        output, theirs = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, output)
        try:
            self._server = stack.enter_context(
                process.started(
                    [sys.executable, *SERVER, str(folder), str(HUGE_PAGE)],
                    env={**run.mark, "PYTHONPATH": import_path()},
                    output=theirs,
                    stdin_pipe=True,
                )
            )
        finally:
            os.close(theirs)
        self.path = f"/proc/{self._server.pid}/root{folder}/memory"
        self._wait_for("up", output)
        self._tell(WORDS[stall])
        self._wait_for(WORDS[stall], output)

    def _wait_for(self, word: str, output: int) -> None:
        """Wait for a line of the server that begins with a word.

        :param output: what the server prints.
        """
        deadline = Deadline.after(START_S)
        said = b""
        # libfuse may print warnings before.
        while not any(line.split()[:1] == [word.encode()] for line in said.splitlines()):
            if not select.select([output], [], [], deadline.remaining_s)[0]:
                raise ProbeFailed(f"The FUSE server did not start within {START_S:.0f} s.")
            data = os.read(output, 65536)
            said += data
            if not data:
                last = said.decode(errors="replace").strip().splitlines() or ["it printed nothing"]
                raise ProbeFailed(f"The FUSE server ended: {last[-1]}")

    def release(self) -> None:
        """Answer all reads. What waits for them cannot be killed for certain before."""
        self._tell("answer")

    def _tell(self, word: str) -> None:
        with suppress(BrokenPipeError):
            self._server.stdin.write(f"{word}\n".encode())
