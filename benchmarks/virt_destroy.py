# SPDX-License-Identifier: BSD-3-Clause
"""`virsh destroy`."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Destroy(suite.VirtSuite):
    """Until libvirt has killed QEMU."""

    request = RequestName.VIRT_DESTROY

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
