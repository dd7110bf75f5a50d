# SPDX-License-Identifier: BSD-3-Clause
"""QMP `stop`."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Stop(suite.RequestSuite):
    """Until QEMU has answered `stop`: every vCPU thread has left the kernel when it does."""

    request = RequestName.STOP

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
