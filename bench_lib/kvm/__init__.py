# SPDX-License-Identifier: BSD-3-Clause
"""KVM without QEMU."""
