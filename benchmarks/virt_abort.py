# SPDX-License-Identifier: BSD-3-Clause
"""`virsh domjobabort --postcopy`, at the source."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class Abort(suite.VirtSuite):
    """Until libvirt has had the source give the connection up."""

    request = RequestName.VIRT_ABORT

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
