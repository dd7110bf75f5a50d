# SPDX-License-Identifier: BSD-3-Clause
"""This machine: its identity, its set-up, and its capabilities."""
