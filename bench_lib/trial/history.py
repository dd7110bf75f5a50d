# SPDX-License-Identifier: BSD-3-Clause
"""Where what was measured is kept: the ledger of kernels and the record file."""

from __future__ import annotations

from bench_lib import record
from bench_lib.kernel.ledger import Ledger, describe
from bench_lib.record import SCORED, Record
from bench_lib.settings import Settings


class History:
    """Keeps records, and the kernels that they are of."""

    def __init__(self, settings: Settings) -> None:
        """:raise LedgerError: the ledger cannot be read."""
        self._ledger = Ledger(settings.ledger)
        self._records = settings.records

    def keep(self, *made: Record) -> None:
        """Append records, all or none, once the ledger knows every kernel that gave a measurement.

        :raise LedgerError: a kernel could not be added; no record was appended.
        :raise RecordNotWritten: the records could not be.
        """
        for kernel in {each.kernel for each in made if each.outcome in SCORED}:
            if self._ledger.find(kernel) is None:
                self._ledger.add(describe(kernel))
        record.append(self._records, *made)
