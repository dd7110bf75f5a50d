# SPDX-License-Identifier: BSD-3-Clause
"""The HMP command `info registers`."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Registers(suite.RequestSuite):
    """The time until QEMU has answered, for which every vCPU has to leave KVM_RUN."""

    request = RequestName.REGISTERS

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
