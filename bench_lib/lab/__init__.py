# SPDX-License-Identifier: BSD-3-Clause
"""The lab: a virtual machine that runs another kernel over this userland."""
