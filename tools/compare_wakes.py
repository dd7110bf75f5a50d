# SPDX-License-Identifier: BSD-3-Clause
"""Compare the probe's clock with one in C, to see how much Python adds to the time of a wake.

    .venv/bin/python tools/compare_wakes.py [ROUNDS [WAKES]]

In each round, `kickbench probe` and `wake.c` wake a vCPU WAKES times each, and take turns to go
first. The longer a vCPU has slept, the colder are its caches. So `wake.c` lets it sleep for as long
as the probe does, which takes longer to look at it.

For a running and for a stuck vCPU, the tool prints both medians in microseconds, the number of
wakes, and the ratio probe / C. What Python adds depends on the processor, so no ratio is right
everywhere. The tool fails if the vCPU comes back for only one of the two.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_lib import ownership
from bench_lib.errors import KickbenchError
from bench_lib.kvm import cases, probe
from bench_lib.kvm.worker_process import SETTLE_NS, WorkerProcess
from bench_lib.ownership import Run
from bench_lib.record import HUNG, Entry, Outcome, WaitsFor
from bench_lib.settings import Settings
from bench_lib.threads import ThreadState

SOURCE = Path(__file__).with_name("wake.c")
CASES = ("healthy", "gup-write")
DEADLINE_S = 10
"""Seconds after which a wake counts as hung. Only a wake that never happens takes so long."""

NO_WAKE = 3
"""The exit status of wake.c for a wake that did not happen."""


def build(folder: Path) -> Path:
    """Compile wake.c in a folder, and return the program's path."""
    program = folder / "wake"
    warnings = ("-Wall", "-Wextra", "-Werror")
    subprocess.run(["cc", "-O2", *warnings, "-o", program, SOURCE], check=True)
    return program


class Looks:
    """How long the probe takes to look at stuck vCPUs."""

    def __init__(self) -> None:
        self._took_ns: list[int] = []
        stuck = WorkerProcess.stuck

        def timed(worker: WorkerProcess, path: Entry, waits_for: WaitsFor) -> ThreadState:
            start_ns = time.monotonic_ns()
            seen = stuck(worker, path, waits_for)
            # A vCPU that runs is looked at until it has run long enough, by both programs.
            if path is not Entry.NONE:
                self._took_ns.append(time.monotonic_ns() - start_ns)
            return seen

        setattr(WorkerProcess, "stuck", timed)  # noqa: B010  # in this tool only

    @property
    def rest_ns(self) -> int:
        """Nanoseconds between the vCPU's sleep and the probe's signal, at the median."""
        return SETTLE_NS + round(statistics.median(self._took_ns or [0]))


def by_probe(run: Run, case: str, count: int) -> list[int] | None:
    """The nanoseconds of each wake by the probe; None if one hung."""
    (result,) = probe.run(run, cases.named([case]), count, DEADLINE_S, lambda _: None)
    if result.outcome in HUNG:
        return None
    if result.outcome is not Outcome.RETURNED:
        sys.exit(f"{case}: the probe measured nothing ({result.reason}).")
    return list(result.wakes_ns)


def by_c(program: Path, case: str, count: int, rest_ns: int) -> list[int] | None:
    """The nanoseconds of each wake by wake.c; None if one hung.

    :param rest_ns: nanoseconds between the look that shows the vCPU stuck and the signal.
    """
    arguments = [case, str(count), str(DEADLINE_S), str(rest_ns // 1000)]
    done = subprocess.run([program, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == NO_WAKE:
        return None
    if done.returncode != 0:
        sys.exit(f"{case}: wake.c ended with status {done.returncode}.")
    return [int(line) for line in done.stdout.split()]


def compare(run: Run, program: Path, case: str, rounds: int, count: int) -> None:
    """Time a case of the probe with both programs, and print the results."""
    ours: list[int] = []
    theirs: list[int] = []
    looks = Looks()
    for number in range(rounds):
        if number % 2:
            c = by_c(program, case, count, looks.rest_ns)
            python = by_probe(run, case, count)
        else:
            python = by_probe(run, case, count)
            c = by_c(program, case, count, looks.rest_ns)
        if python is None and c is None:
            print(f"{case}: the vCPU comes back neither for the probe nor for C")
            return
        if python is None or c is None:
            who = "the probe" if c is None else "C"
            sys.exit(f"{case}: the vCPU comes back only for {who}.")
        ours += python
        theirs += c
    median, floor = statistics.median(ours) / 1000, statistics.median(theirs) / 1000
    print(
        f"{case}: probe {median:.1f} us, C {floor:.1f} us, n = {len(ours)} each, "
        f"ratio of medians {median / floor:.2f}"
    )


def main(rounds: int = 10, count: int = 100) -> None:
    """Build wake.c, and compare each case."""
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        with ownership.measuring(Settings.from_environment().runtime) as run:
            for case in CASES:
                compare(run, program, case, rounds, count)


if __name__ == "__main__":
    try:
        main(*map(int, sys.argv[1:]))
    except KickbenchError as error:
        sys.exit(str(error))
