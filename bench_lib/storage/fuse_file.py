# SPDX-License-Identifier: BSD-3-Clause
"""The name of the file of a FUSE server, for the server's program and for those who use it."""

from __future__ import annotations

FILE = "memory"
