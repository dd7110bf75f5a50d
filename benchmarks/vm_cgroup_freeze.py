# SPDX-License-Identifier: BSD-3-Clause
"""Freezing QEMU with a cgroup."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class CgroupFreeze(suite.RequestSuite):
    """The time until the kernel reports every thread of QEMU frozen."""

    request = RequestName.CGROUP_FREEZE

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
