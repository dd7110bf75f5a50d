# SPDX-License-Identifier: BSD-3-Clause
"""Ctrl-C in QEMU's terminal."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class CtrlC(suite.RequestSuite):
    """The time from the byte 0x03 in QEMU's controlling terminal until QEMU is reaped."""

    request = RequestName.CTRL_C

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
