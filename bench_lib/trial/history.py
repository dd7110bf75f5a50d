# SPDX-License-Identifier: BSD-3-Clause
"""Keeping what was measured, in the ledger of kernels and the record file."""

from __future__ import annotations

from bench_lib import record
from bench_lib.kernel.ledger import Ledger, describe
from bench_lib.record import SCORED, Record
from bench_lib.settings import Settings


class History:
    """Keeps records, and the kernels that were measured."""

    def __init__(self, settings: Settings) -> None:
        """Open the ledger of the settings.

        :raise LedgerError: the ledger cannot be read.
        """
        self._ledger = Ledger(settings.ledger)
        self._records = settings.records

    def keep(self, *made: Record) -> None:
        """Add every kernel that was measured to the ledger, then append all records or none.

        :raise LedgerError: a kernel could not be added; no record was appended.
        :raise RecordNotWritten: the records could not be appended.
        """
        for kernel in {each.kernel for each in made if each.outcome in SCORED}:
            if self._ledger.find(kernel) is None:
                self._ledger.add(describe(kernel))
        record.append(self._records, *made)
