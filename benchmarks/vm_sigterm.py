# SPDX-License-Identifier: BSD-3-Clause
"""SIGTERM to QEMU."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Sigterm(suite.RequestSuite):
    """The time until QEMU is reaped after SIGTERM, the first signal that management layers send."""

    request = RequestName.SIGTERM

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
