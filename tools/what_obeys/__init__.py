# SPDX-License-Identifier: BSD-3-Clause
"""Make the tables of docs/what-obeys.md from records of trials and reports of the probe.

The page belongs to this documentation, because its predictions (docs/what-obeys.toml) are readings
of a few kernels. `kickbench report` sums up any records.
"""
