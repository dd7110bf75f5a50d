# SPDX-License-Identifier: BSD-3-Clause
"""A break in QEMU's gdbstub."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class GdbstubBreak(suite.RequestSuite):
    """The time until the gdbstub has sent its stop reply."""

    request = RequestName.GDBSTUB_BREAK

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
