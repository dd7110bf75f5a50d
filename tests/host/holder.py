# SPDX-License-Identifier: BSD-3-Clause
"""Keeps a process from dying until the end of stdin, like a wait that SIGKILL does not end.

    python holder.py PID

It traces the first thread of the process. That thread therefore stops when it exits, while it still
has its memory and its descriptors, and only its tracer can continue it. Until then the process runs
as usual, except that signals stop its first thread; QEMU's reads them from a descriptor.
"""

from __future__ import annotations

import ctypes
import os
import sys

PTRACE_SEIZE, PTRACE_O_TRACEEXIT = 0x4206, 0x40

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long
if libc.ptrace(PTRACE_SEIZE, int(sys.argv[1]), None, PTRACE_O_TRACEEXIT) != 0:
    raise OSError(ctypes.get_errno(), "ptrace")
os.write(1, b"held\n")
os.read(0, 1)
