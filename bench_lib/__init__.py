# SPDX-License-Identifier: BSD-3-Clause
"""kickbench: measure whether a host obeys its operator while a guest's vCPUs are stuck."""

__version__ = "0.1.0"
