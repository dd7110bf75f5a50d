# SPDX-License-Identifier: BSD-3-Clause
"""The plugin of asv, which asv.conf.json names. Loading it makes its classes known to asv.

The classes use internal interfaces of asv, so pyproject.toml pins asv to one minor version.
"""

from bench_lib.asv_bridge import machine, publish, selection
from bench_lib.asv_bridge.kernel_fleet import KernelFleet
from bench_lib.asv_bridge.kernel_host import KernelHost
from bench_lib.asv_bridge.kernel_lab import KernelLab
from bench_lib.asv_bridge.publish import KernelsPage
from bench_lib.asv_bridge.repo import KernelRepo
from bench_lib.settings import search_system_folders

__all__ = ["KernelFleet", "KernelHost", "KernelLab", "KernelRepo", "KernelsPage"]

search_system_folders()
machine.install()
publish.install()
selection.install()
