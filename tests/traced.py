# SPDX-License-Identifier: BSD-3-Clause
"""Processes that another process traces."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRACED = """
import ctypes, time
PR_SET_PTRACER, ANY = 0x59616d61, ctypes.c_ulong(-1)
ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANY, 0, 0, 0)
print(flush=True)
"""
"""The start of a program that every process may trace."""

_TRACER = """
import ctypes, sys, time
PTRACE_SEIZE = 0x4206
assert ctypes.CDLL(None).ptrace(ctypes.c_long(PTRACE_SEIZE), int(sys.argv[1]), None, None) == 0
print(flush=True)
time.sleep(1000)
"""


@contextmanager
def traced(program: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python program in a session of its own, with a tracer that lets it run.

    :param program: what it does once it is traced; `time` is imported.
    """
    with subprocess.Popen(
        [sys.executable, "-c", _TRACED + program],
        stdout=subprocess.PIPE,
        start_new_session=True,
        bufsize=0,
    ) as target:
        assert target.stdout is not None
        target.stdout.readline()
        with subprocess.Popen(
            [sys.executable, "-c", _TRACER, str(target.pid)], stdout=subprocess.PIPE
        ) as tracer:
            assert tracer.stdout is not None
            try:
                assert tracer.stdout.readline() == b"\n"
                yield target
            finally:
                tracer.kill()
                target.kill()
