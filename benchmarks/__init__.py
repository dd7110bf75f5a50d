# SPDX-License-Identifier: BSD-3-Clause
"""The benchmarks: one module per request. A class's docstring names the time that it measures."""
