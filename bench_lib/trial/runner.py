# SPDX-License-Identifier: BSD-3-Clause
"""Where trials are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from bench_lib.record import Record
from bench_lib.trial.case import Case


class Runner(Protocol):
    """Makes trials under one kernel and keeps their records."""

    def run(self, cases: Sequence[Case], on_record: Callable[[Record], None]) -> list[Record]:
        """Make a trial of each of `cases`, in this order.

        :param on_record: called with each record once it is kept.
        :raise KickbenchError: they could not be made; the records before it are kept.
        """
