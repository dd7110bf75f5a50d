# SPDX-License-Identifier: BSD-3-Clause
"""QMP `query-status`: a control, the round trip of the monitor."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class QueryStatus(suite.RequestSuite):
    """Until QEMU has answered, which takes no vCPU."""

    request = RequestName.QUERY_STATUS

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
