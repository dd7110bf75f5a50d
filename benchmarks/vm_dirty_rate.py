# SPDX-License-Identifier: BSD-3-Clause
"""The QMP command `calc-dirty-rate`."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class DirtyRate(suite.RequestSuite):
    """The time until QEMU has the rate. The second in which it measures is a part of it."""

    request = RequestName.DIRTY_RATE

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
