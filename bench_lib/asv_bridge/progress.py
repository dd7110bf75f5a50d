# SPDX-License-Identifier: BSD-3-Clause
"""Progress of a benchmark process, which asv runs with its output held back."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from bench_lib import present
from bench_lib.lab.vm import Facts
from bench_lib.record import Record


class Progress:
    """A line for each trial, with the time left, to where asv's messages go."""

    def __init__(self, path: Path | None, total: int) -> None:
        """:param path: where to write, None for nowhere; never a reason to fail."""
        self._total = total
        self._done = 0
        self._begin_s = time.monotonic()
        self._fd = -1
        if path is not None:
            try:
                self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY)
            except OSError:
                self._fd = -1

    def booted(self, facts: Facts) -> None:
        """A lab is up."""
        self._begin_s = time.monotonic()
        self._write(f"\n    {facts}")
        print(facts, file=sys.stdout, flush=True)  # noqa: T201

    def trial(self, record: Record) -> None:
        """One trial more is done."""
        self.advance(present.trial_line(record))

    def advance(self, text: str) -> None:
        """One more is done, and `text` says what."""
        self._done += 1
        left_s = (time.monotonic() - self._begin_s) / self._done * (self._total - self._done)
        line = f"{self._done}/{self._total} {text}"
        # On a line of its own: asv's own line may be unfinished.
        self._write(f"\n    {line}; {left_s:.0f} s left")
        # asv ends a benchmark that is silent for too long, and shows this if one fails.
        print(line, file=sys.stdout, flush=True)  # noqa: T201

    def close(self) -> None:
        """Finish the last line."""
        self._write("\n")
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, text: str) -> None:
        # Whoever looked may be gone, which is nothing to a measurement.
        if self._fd >= 0:
            with suppress(OSError):
                os.write(self._fd, text.encode())
