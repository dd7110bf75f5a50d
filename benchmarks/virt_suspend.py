# SPDX-License-Identifier: BSD-3-Clause
"""`virsh suspend`."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Suspend(suite.VirtSuite):
    """Until libvirt has suspended the guest, or has refused to."""

    request = RequestName.VIRT_SUSPEND
    most_trials = 2

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
