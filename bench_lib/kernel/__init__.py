# SPDX-License-Identifier: BSD-3-Clause
"""Kernel builds: the ledger, the cache, Debian's suites, packages and archives, and names."""
