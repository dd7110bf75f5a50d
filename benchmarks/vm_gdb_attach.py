# SPDX-License-Identifier: BSD-3-Clause
"""gdb on QEMU."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class GdbAttach(suite.RequestSuite):
    """Until a gdb that waits for its command has attached to QEMU and stopped every thread."""

    request = RequestName.GDB_ATTACH

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
