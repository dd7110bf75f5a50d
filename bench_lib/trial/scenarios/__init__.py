# SPDX-License-Identifier: BSD-3-Clause
"""The scenarios: how to stage each, strand the guest, end the stall, and recover the guest."""
