# SPDX-License-Identifier: BSD-3-Clause
"""The interface of a runner, which makes trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from bench_lib.record import Record
from bench_lib.trial.case import Case


class Runner(Protocol):
    """Makes trials under one kernel and keeps their records."""

    def run(self, cases: Sequence[Case], on_record: Callable[[Record], None]) -> list[Record]:
        """Make a trial of each of `cases`, in this order.

        :param on_record: called with each record after it has been appended to the record file.
        :raise KickbenchError: a trial could not be made; earlier records are kept.
        """
