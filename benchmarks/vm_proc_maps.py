# SPDX-License-Identifier: BSD-3-Clause
"""/proc/PID/maps of QEMU."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class ProcMaps(suite.RequestSuite):
    """The time until a running `cat` has read all of it, for which the kernel takes mmap_lock."""

    request = RequestName.PROC_MAPS

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
