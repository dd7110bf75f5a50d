# SPDX-License-Identifier: BSD-3-Clause
"""Memory whose pages never arrive because it is a file on FUSE whose server does not answer."""

from __future__ import annotations

import select
from contextlib import ExitStack

from bench_lib.deadline import Deadline
from bench_lib.errors import ProbeFailed, StorageFailed
from bench_lib.kvm.programs import HUGE_PAGE
from bench_lib.ownership import Run
from bench_lib.storage.fuse import WORDS, FuseServer, Stall

START_S = 20.0
"""Seconds that the server may take to start: it takes a tenth of a second, or two seconds under
emulation."""


class FuseMemory:
    """A file on a FUSE server of its own, which answers no read.

    :ivar path: the file, one huge page long.
    """

    def __init__(self, run: Run, stall: Stall, stack: ExitStack) -> None:
        """Start the server, and wait until the file exists.

        :param stack: ends the server.
        :raise ProbeFailed: the server ended, or did not start in time.
        """
        self._server = FuseServer(run, "fuse", HUGE_PAGE, stack)
        self.path = self._server.path
        self._wait_for("up")
        self._server.tell(WORDS[stall])
        self._wait_for(WORDS[stall])

    def _wait_for(self, word: str) -> None:
        """Wait until the server has printed a word."""
        deadline = Deadline.after(START_S)
        try:
            while self._server.said(word) is None:
                if not select.select([self._server.output], [], [], deadline.remaining_s)[0]:
                    raise ProbeFailed(f"The FUSE server did not start within {START_S:.0f} s.")
        except StorageFailed as error:
            raise ProbeFailed(str(error)) from None

    def release(self) -> None:
        """Answer all reads. What waits for them cannot be killed for certain before."""
        self._server.tell("answer")
