# SPDX-License-Identifier: BSD-3-Clause
"""SIGUSR1 to the vCPU threads, without any other action."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Sigusr1(suite.RequestSuite):
    """The time until every vCPU thread has left the page fault to handle the signal."""

    request = RequestName.SIGUSR1

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
