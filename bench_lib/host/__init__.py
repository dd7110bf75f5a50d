# SPDX-License-Identifier: BSD-3-Clause
"""This machine: which it is, how it is set up, and what it can do."""
