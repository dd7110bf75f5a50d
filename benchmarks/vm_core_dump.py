# SPDX-License-Identifier: BSD-3-Clause
"""SIGQUIT, for which the kernel dumps the core of QEMU."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class CoreDump(suite.RequestSuite):
    """The time until QEMU is reaped, the writing of its core included."""

    request = RequestName.CORE_DUMP

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
