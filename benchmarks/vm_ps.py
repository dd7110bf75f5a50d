# SPDX-License-Identifier: BSD-3-Clause
"""The command ps, with the command line of QEMU."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Ps(suite.RequestSuite):
    """The time until all of its output has been read. The start of ps is a part of it."""

    request = RequestName.PS

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
