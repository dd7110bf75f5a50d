# SPDX-License-Identifier: BSD-3-Clause
"""HMP `info registers`."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Registers(suite.RequestSuite):
    """Until QEMU has answered: every vCPU has run it."""

    request = RequestName.REGISTERS

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
