# SPDX-License-Identifier: BSD-3-Clause
"""ptrace(2) and its constants, from linux/ptrace.h."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

from bench_lib import libc
from bench_lib.errors import PtraceForbidden, ToolFailed
from bench_lib.process import Child, run_tool

PTRACE_CONT = 7
PTRACE_DETACH = 17
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
WALL = 0x40000000
"""__WALL of waitpid(2): wait for any thread, not only for a leader."""

_ptrace = libc.LIBC.ptrace
_ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
_ptrace.restype = ctypes.c_long


def ptrace(request: int, tid: int, data: int = 0) -> None:
    """Make a request that needs at most a thread and a number.

    :raise OSError: the kernel refused it.
    """
    if _ptrace(request, tid, None, data) == -1:
        raise libc.error("ptrace")


_SEIZE = """
import ctypes, sys
request, pid = map(int, sys.argv[1:])
sys.exit(ctypes.CDLL(None).ptrace(ctypes.c_long(request), pid, None, None) != 0)
"""
"""A program that traces a process and ends. It imports little, because imports are slow in a
lab."""


def check(*, sibling: bool = False) -> None:
    """Try to trace a child process.

    :param sibling: whether to trace it from another child, as a debugger traces QEMU. Yama may
        allow tracing a child and forbid tracing a sibling.
    :raise PtraceForbidden: the kernel refused; the message names what may forbid it.
    """
    target = Child(
        subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL, start_new_session=True)
    )
    try:
        if sibling:
            run_tool([sys.executable, "-I", "-S", "-c", _SEIZE, str(PTRACE_SEIZE), str(target.pid)])
        else:
            ptrace(PTRACE_SEIZE, target.pid)
    except (OSError, ToolFailed):
        scope = Path("/proc/sys/kernel/yama/ptrace_scope")
        yama = f"kernel.yama.ptrace_scope is {scope.read_text().strip()}" if scope.exists() else ""
        raise PtraceForbidden(
            "The kernel does not let kickbench trace processes. Run outside of a container, or in "
            f"one with CAP_SYS_PTRACE{'; ' + yama if yama else ''}."
        ) from None
    finally:
        target.end()
