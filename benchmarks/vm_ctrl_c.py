# SPDX-License-Identifier: BSD-3-Clause
"""Ctrl-C at QEMU's terminal."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class CtrlC(suite.RequestSuite):
    """Until QEMU is reaped after 0x03 was typed at the terminal that it is in the foreground of."""

    request = RequestName.CTRL_C

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
