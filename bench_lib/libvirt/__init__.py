# SPDX-License-Identifier: BSD-3-Clause
"""The other manager: the same guests, run by libvirt."""

CACHE = "libvirt"
"""The folder in kickbench's cache of what libvirtd finds out about QEMU, once per kernel."""
