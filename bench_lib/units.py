# SPDX-License-Identifier: BSD-3-Clause
"""Units that several packages convert between."""

NS_PER_S = 1_000_000_000
"""Nanoseconds per second: the code and the records hold times in nanoseconds."""
