# SPDX-License-Identifier: BSD-3-Clause
"""asv's front door: loaded by it as a plugin (asv.conf.json), which makes these classes known.

They use internal interfaces of asv, which is therefore pinned to one minor version.
"""

from bench_lib.asv_bridge import machine, publish, selection
from bench_lib.asv_bridge.kernel_host import KernelHost
from bench_lib.asv_bridge.kernel_lab import KernelLab
from bench_lib.asv_bridge.publish import KernelsPage
from bench_lib.asv_bridge.repo import KernelRepo

__all__ = ["KernelHost", "KernelLab", "KernelRepo", "KernelsPage"]

machine.install()
publish.install()
selection.install()
