# SPDX-License-Identifier: BSD-3-Clause
"""The QMP command `query-status`: a control that shows the round trip of the monitor."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class QueryStatus(suite.RequestSuite):
    """The time until QEMU has answered, which does not involve a vCPU."""

    request = RequestName.QUERY_STATUS

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
