# SPDX-License-Identifier: BSD-3-Clause
"""The QMP command `stop`, for a guest whose memory comes from storage that does not answer."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Stop(suite.StallSuite):
    """The time until QEMU has answered `stop`, with a vCPU that waits for storage."""

    request = RequestName.STOP

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
