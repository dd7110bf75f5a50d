# SPDX-License-Identifier: BSD-3-Clause
"""Workloads: the programs that guests run, and how kickbench observes them."""
