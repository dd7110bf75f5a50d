# SPDX-License-Identifier: BSD-3-Clause
"""The other manager: the same guests, run by libvirt."""
