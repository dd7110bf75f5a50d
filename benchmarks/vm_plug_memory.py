# SPDX-License-Identifier: BSD-3-Clause
"""The QMP command `device_add` of a memory module."""

from bench_lib.asv_bridge import suite
from bench_lib.record import Record, RequestName


class PlugMemory(suite.RequestSuite):
    """The time until QEMU has answered, for which KVM waits for readers of its memory slots."""

    request = RequestName.PLUG_MEMORY

    def setup_cache(self) -> dict[str, list[Record]]:
        return self.measure()
