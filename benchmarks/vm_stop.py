# SPDX-License-Identifier: BSD-3-Clause
"""The QMP command `stop`."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Stop(suite.RequestSuite):
    """The time until QEMU has answered `stop`, for which every vCPU has to leave KVM_RUN."""

    request = RequestName.STOP

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
