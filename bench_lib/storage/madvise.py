# SPDX-License-Identifier: BSD-3-Clause
"""process_madvise(2), which the C library has no function for."""

from __future__ import annotations

import struct

from bench_lib import libc

SYS_PROCESS_MADVISE = 440
MADV_PAGEOUT = 21

PUSHES = 5
"""How often to push out memory of which some is left."""


def push_out(pidfd: int, start: int, size: int) -> None:
    """Push out as much of a part of a process's memory as the kernel can.

    :raise OSError: the kernel refused.
    """
    vector = struct.pack("=2Q", start, size)
    if libc.LIBC.syscall(SYS_PROCESS_MADVISE, pidfd, vector, 1, MADV_PAGEOUT, 0) < 0:
        raise libc.error("process_madvise")
