# SPDX-License-Identifier: BSD-3-Clause
"""The QMP command `stop`, for a guest whose migration fails at the switch."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Stop(suite.SwitchSuite):
    """The time until QEMU has answered `stop`, with a guest stuck on the first page KVM touches."""

    request = RequestName.STOP

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
