# SPDX-License-Identifier: BSD-3-Clause
"""QMP `stop` of a guest whose migration fails at the switch."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Stop(suite.SwitchSuite):
    """Until QEMU has answered `stop` to a guest stuck in the first page that KVM touches."""

    request = RequestName.STOP

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
