# SPDX-License-Identifier: BSD-3-Clause
"""A restart of libvirtd."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class RebootDaemon(suite.VirtSuite):
    """Until the new libvirtd reports the guest's state."""

    request = RequestName.VIRT_REBOOT_DAEMON
    most_trials = 2

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
