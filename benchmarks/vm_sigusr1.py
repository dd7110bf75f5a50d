# SPDX-License-Identifier: BSD-3-Clause
"""SIGUSR1, the bare kick of a vCPU."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Sigusr1(suite.RequestSuite):
    """Until every vCPU thread has left the fault to take the signal."""

    request = RequestName.SIGUSR1

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
