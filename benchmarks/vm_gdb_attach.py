# SPDX-License-Identifier: BSD-3-Clause
"""gdb attaching to QEMU."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class GdbAttach(suite.RequestSuite):
    """The time until a running gdb has attached to QEMU and stopped every thread of it."""

    request = RequestName.GDB_ATTACH

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
