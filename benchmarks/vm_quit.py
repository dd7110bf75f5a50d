# SPDX-License-Identifier: BSD-3-Clause
"""The QMP command `quit`."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Quit(suite.RequestSuite):
    """The time until QEMU is reaped."""

    request = RequestName.QUIT

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
