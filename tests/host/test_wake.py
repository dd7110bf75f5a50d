"""How fine the probe's clock is: the same wake, measured from C in the same minute."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from bench_lib.kvm import probe
from bench_lib.ownership import Run
from bench_lib.record import Outcome

ROUNDS = 10
WAKES = 100
"""A round of each; a thousand in all."""

RATIO = 1.3


@pytest.fixture(scope="module")
def wake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built."""
    program = tmp_path_factory.mktemp("wake") / "wake"
    source = Path(__file__).with_name("wake.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True)
    return program


@pytest.mark.parametrize("case", ["healthy", "gup-write"])
def test_python_adds_little_to_a_wake(wake: Path, run: Run, case: str) -> None:
    ours: list[int] = []
    theirs: list[int] = []
    for _ in range(ROUNDS):
        (result,) = probe.run(run, probe.named([case]), WAKES, 1.0, lambda _: None)
        assert result.outcome is Outcome.RETURNED, result.reason
        ours += result.wakes_ns
        done = subprocess.run(
            [wake, case, str(WAKES)], capture_output=True, text=True, check=True, timeout=60
        )
        theirs += map(int, done.stdout.split())
    assert len(ours) == len(theirs) == ROUNDS * WAKES
    median, floor = statistics.median(ours), statistics.median(theirs)
    said = f"{case}: {median / 1000:.1f} us, from C {floor / 1000:.1f} us, n = {len(ours)} each"
    sys.stdout.write(f"\n{said}\n")
    assert floor / RATIO < median < RATIO * floor
