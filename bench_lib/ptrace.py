# SPDX-License-Identifier: BSD-3-Clause
"""ptrace(2) and what it is called with; see linux/ptrace.h."""

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
"""__WALL of waitpid(2): also threads that are not the leader."""

_ptrace = libc.LIBC.ptrace
_ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
_ptrace.restype = ctypes.c_long


def ptrace(request: int, tid: int, data: int = 0) -> None:
    """A request that takes no more than a thread and a number.

    :raise OSError: it was refused.
    """
    if _ptrace(request, tid, None, data) == -1:
        raise libc.error("ptrace")


_SEIZE = """
import ctypes, sys
request, pid = map(int, sys.argv[1:])
sys.exit(ctypes.CDLL(None).ptrace(ctypes.c_long(request), pid, None, None) != 0)
"""
"""A program that traces a process and ends. Imports are slow in a lab, so it has few."""


def check(*, sibling: bool = False) -> None:
    """Try it on a process of our own.

    :param sibling: from another process of ours, as a debugger is to QEMU; Yama tells that apart.
    :raise PtraceForbidden: the sentence says who may forbid it.
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
            "No process may be traced here. Run outside of a container, or in one with "
            f"CAP_SYS_PTRACE{'; ' + yama if yama else ''}."
        ) from None
    finally:
        target.end()
