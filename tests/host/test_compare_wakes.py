# SPDX-License-Identifier: BSD-3-Clause
"""The tool that compares the probe's clock with one in C. No test judges its ratio."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from bench_lib.settings import CHECKOUT

FIGURES = r"probe [0-9.]+ us, C [0-9.]+ us, n = 6 each, ratio of medians [0-9.]+"
NONE = "the vCPU comes back neither for the probe nor for C"


def test_the_probe_and_c_find_the_same_outcome(clean_host: Path) -> None:
    done = subprocess.run(
        [sys.executable, CHECKOUT / "tools" / "compare_wakes.py", "2", "3"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert done.returncode == 0, done.stderr
    healthy, stuck = done.stdout.splitlines()
    assert re.fullmatch(f"healthy: {FIGURES}", healthy)
    assert re.fullmatch(f"gup-write: ({FIGURES}|{NONE})", stuck)
