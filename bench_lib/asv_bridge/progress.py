# SPDX-License-Identifier: BSD-3-Clause
"""Print the progress of a benchmark process, whose output asv holds back."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from bench_lib import present
from bench_lib.fleet.status import CampaignStatus
from bench_lib.lab.vm import Facts
from bench_lib.record import Record


class Progress:
    """A file, where asv's own messages go, that gets a line per trial with the time left."""

    def __init__(self, path: Path | None, total: int) -> None:
        """Open the file, if that is possible. Errors of the output never fail a benchmark.

        :param path: the file to write to; None if there is none.
        :param total: the number of trials.
        """
        self._total = total
        self._done = 0
        self._start_s = time.monotonic()
        self._last = ""
        self._fd = -1
        if path is not None:
            try:
                self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY)
            except OSError:
                self._fd = -1

    def booted(self, facts: Facts) -> None:
        """Report that a lab is up."""
        self._start_s = time.monotonic()
        self._write(f"\n    {facts}")
        print(facts, file=sys.stdout, flush=True)  # noqa: T201

    def waiting(self, campaign: CampaignStatus) -> None:
        """Report what a boot of the fleet is doing, which may wait for its turn for hours."""
        doing = "is being made" if campaign.running else "waits for its turn"
        line = f"the boot of campaign {campaign.id} {doing}"
        if line != self._last:
            self._write(f"\n    {line}")
            self._last = line
        # asv ends a benchmark that prints nothing for too long, so this is printed each time.
        print(line, file=sys.stdout, flush=True)  # noqa: T201

    def kept(self, record: Record) -> None:
        """Report a trial of a boot whose trials all end at once, so that no time is left."""
        self._done += 1
        line = f"{self._done}/{self._total} {present.trial_line(record)}"
        self._write(f"\n    {line}")
        print(line, file=sys.stdout, flush=True)  # noqa: T201

    def trial(self, record: Record) -> None:
        """Report that a trial is done."""
        self.advance(present.trial_line(record))

    def advance(self, text: str) -> None:
        """Report that one more of the total is done.

        :param text: what is done.
        """
        self._done += 1
        left_s = (time.monotonic() - self._start_s) / self._done * (self._total - self._done)
        line = f"{self._done}/{self._total} {text}"
        # The text starts on a new line, because asv's own line may be unfinished.
        self._write(f"\n    {line}; {left_s:.0f} s left")
        # asv ends a benchmark that prints nothing for too long, and shows this output if one fails.
        print(line, file=sys.stdout, flush=True)  # noqa: T201

    def close(self) -> None:
        """Finish the last line, and close the file."""
        self._write("\n")
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, text: str) -> None:
        # The terminal may be gone. That does not affect the measurement.
        if self._fd >= 0:
            with suppress(OSError):
                os.write(self._fd, text.encode())
