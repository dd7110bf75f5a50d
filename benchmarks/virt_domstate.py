# SPDX-License-Identifier: BSD-3-Clause
"""`virsh domstate`: a control, libvirt's own round trip."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Domstate(suite.VirtSuite):
    """Until libvirt has reported the guest's state, which takes no QEMU."""

    request = RequestName.VIRT_DOMSTATE

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
