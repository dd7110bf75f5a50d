# SPDX-License-Identifier: BSD-3-Clause
"""SIGKILL to QEMU, the operator's last resort."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Sigkill(suite.RequestSuite):
    """The time until QEMU is reaped."""

    request = RequestName.SIGKILL

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
