# SPDX-License-Identifier: BSD-3-Clause
"""Run a part of kickbench as a process of its own, which ends in order, or else is killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bench_lib.process import Child
from bench_lib.process.start import spawn
from bench_lib.settings import CHECKOUT, Settings

GRACE_S = 40.0
"""Seconds that a process may take to end after SIGTERM. It ends what it has started by then, and
waits up to 10 s for each process that the kernel does not let die."""

UNLESS_ORPHANED = '[ "$PPID" = "$1" ] || exit 1; shift; exec "$@"'
"""The script of the shell that executes the command. If we died before setpriv(1) asked for the
SIGTERM, no SIGTERM comes, so the command must not start."""


@dataclass(frozen=True)
class Done:
    """What a command did.

    :ivar status: its exit status, or the negative number of the signal that ended it; None if it
        did not end within its limit, and was ended.
    :ivar errors: what it wrote to stderr.
    """

    status: int | None
    output: str
    errors: str

    @property
    def sentence(self) -> str:
        """The last line that it wrote to stderr, which is its error; "" if there is none."""
        lines = self.errors.strip().splitlines()
        return lines[-1].removeprefix("kickbench: ") if lines else ""


class Command:
    """A command. Ctrl-C at our terminal does not reach it, and it gets SIGTERM when we die.

    Its input and output are in memory: pipes would wake us for each line while trials run, and
    files would need space on a disk.
    """

    def __init__(
        self, arguments: Sequence[str], settings: Settings, env: Mapping[str, str], stdin: str = ""
    ) -> None:
        """Start it.

        :param arguments: the arguments of Python.
        :param env: variables to add to our environment and the settings.
        :raise ProgramMissing: setpriv is not installed.
        :raise NotStarted: there is not enough memory or room for another process.
        """
        with ExitStack() as stack:
            self._output, self._errors, given = (
                os.memfd_create(name) for name in ("output", "errors", "input")
            )
            for each in (self._output, self._errors):
                stack.callback(os.close, each)
            try:
                os.write(given, stdin.encode())
                os.lseek(given, 0, os.SEEK_SET)
                popen = spawn(
                    [
                        *("setpriv", "--pdeathsig", "TERM", "--"),
                        *("sh", "-c", UNLESS_ORPHANED, "sh", str(os.getpid())),
                        *(sys.executable, *arguments),
                    ],
                    sys.executable,
                    None,
                    stdin=given,
                    stdout=self._output,
                    stderr=self._errors,
                    env={**os.environ, **settings.exported(), **env},
                    # Python looks here first, so the command has the code that we have.
                    cwd=CHECKOUT,
                )
            finally:
                os.close(given)
            self._child = Child(popen)
            stack.pop_all()

    @property
    def pid(self) -> int:
        return self._child.pid

    def end(self) -> None:
        """Ask the command to end. Do nothing if it has ended."""
        self._child.signal(signal.SIGTERM)

    def wait(self, limit_s: float) -> Done:
        """Sleep until the command has ended, and return what it did. Call this exactly once.

        However this ends, the command has ended then, or was killed.

        :param limit_s: seconds after which the command is ended.
        """
        try:
            in_time = self._child.reaped_within(limit_s) is not None
        finally:
            self.end()
            self._child.reaped_within(GRACE_S)
            status = self._child.exit_status
            self._child.end()
            texts = [_closed(each) for each in (self._output, self._errors)]
        return Done(status if in_time else None, *texts)


def _closed(fd: int) -> str:
    """Close a file in memory, and return its text."""
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        return file.read().decode(errors="replace")
