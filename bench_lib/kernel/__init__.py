# SPDX-License-Identifier: BSD-3-Clause
"""Kernels: the booted one, and the ledger of known builds."""
