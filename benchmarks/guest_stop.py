# SPDX-License-Identifier: BSD-3-Clause
"""The QMP command `stop`, for different kinds of guests."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Stop(suite.GuestSuite):
    """The time until QEMU has answered `stop`, with every vCPU stuck in a blackhole."""

    request = RequestName.STOP

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
