# SPDX-License-Identifier: BSD-3-Clause
"""`virsh destroy --graceful`."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class DestroyGraceful(suite.VirtSuite):
    """Until libvirt has ended QEMU without SIGKILL, or has given up."""

    request = RequestName.VIRT_DESTROY_GRACEFUL

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
