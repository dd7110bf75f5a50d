# SPDX-License-Identifier: BSD-3-Clause
"""QMP `quit`."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Quit(suite.RequestSuite):
    """Until QEMU is reaped."""

    request = RequestName.QUIT

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
