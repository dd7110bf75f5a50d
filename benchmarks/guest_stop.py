# SPDX-License-Identifier: BSD-3-Clause
"""QMP `stop` of guests of different kinds."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Stop(suite.GuestSuite):
    """Until QEMU has answered `stop` to a guest all vCPUs of which are stuck in a blackhole."""

    request = RequestName.STOP

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
