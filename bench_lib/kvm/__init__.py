# SPDX-License-Identifier: BSD-3-Clause
"""The probe, which uses KVM and userfaultfd without QEMU."""
