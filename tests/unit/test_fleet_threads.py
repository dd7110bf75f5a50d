# SPDX-License-Identifier: BSD-3-Clause
"""Several threads of a worker decode at once, and for the first time."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys, threading
from bench_lib import record
from bench_lib.fleet import work
from bench_lib.record import Kernel
from tests import make

given = work.to_json(work.Work(work.Kind.LAB, Kernel("6", "#1"), (), 1.0))
line = record.to_line(make.record())
together = threading.Barrier(32)
sys.setswitchinterval(1e-6)

def decode():
    together.wait()
    work.from_json(given, work.Work)
    record.from_line(line)

threads = [threading.Thread(target=decode) for _ in range(32)]
for each in threads:
    each.start()
for each in threads:
    each.join()
"""


@pytest.mark.parametrize("attempt", range(4))
def test_threads_that_decode_for_the_first_time_at_once_do_not_crash(attempt: int) -> None:
    """msgspec crashes if several threads are the first to decode a dataclass."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
