# SPDX-License-Identifier: BSD-3-Clause
"""Print how long a trial of a big guest takes, by stage, as a table in Markdown.

    .venv/bin/python tools/big_guests.py [--vcpus 1 8 64 255] [--memory 16 1024 4096] [-n 5]

Makes trials of `stop` in `blackhole` (image gup) under the booted kernel. The shapes take turns, so
that other work on the host disturbs all of them alike. The table has medians: seconds of the stages
that depend on the shape, seconds of all stages, and the time of the answer. The ratio is that of
all stages to all stages with the smallest number of vCPUs. Lost trials are left out. A shape that
kickbench refuses, for example because the host has too little memory, has no trials.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench_lib import record
from bench_lib.errors import KickbenchError
from bench_lib.record import Outcome, Record
from bench_lib.units import NS_PER_S

SHOWN = ("start", "guest-up", "postcopy", "proof")


def one_trial(vcpus: int, memory_mib: int, records: Path) -> None:
    """Make one trial, whose record is appended to a file."""
    trial = ["trial", "--scenario", "blackhole", "--request", "stop"]
    shape = ["--vcpus", str(vcpus), "--memory", str(memory_mib)]
    # A failure prints its reason on standard error.
    subprocess.run(
        [sys.executable, "-m", "bench_lib.cli", *trial, *shape],
        check=False,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "KICKBENCH_RECORDS": str(records)},
    )


def seconds(made: Record, name: str | None = None) -> float:
    """Return how long a stage took, or all stages. A trial may have been staged more than once."""
    stages = [each for each in made.stages if name in {None, each.name}]
    return sum(each.end_ns - each.start_ns for each in stages) / NS_PER_S


def row(vcpus: int, memory_mib: int, trials: Sequence[Record], fewest: Sequence[Record]) -> str:
    """Return the line of a shape.

    :param trials: the trials of the shape.
    :param fewest: the trials of the guest with as much memory and the smallest number of vCPUs.
    """
    cells = [str(vcpus), f"{memory_mib} MiB", str(len(trials))]
    if trials:
        all_s = median(seconds(each) for each in trials)
        cells += [f"{median(seconds(each, name) for each in trials):.2f}" for name in SHOWN]
        cells += [f"{all_s:.2f}", f"{median(each.waited_ns for each in trials) / 1e6:.1f} ms"]
    else:
        cells += ["-"] * (len(SHOWN) + 2)
    both = trials and fewest
    cells.append(f"{all_s / median(seconds(each) for each in fewest):.1f}" if both else "-")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Make the trials and print the table.

    :raise KickbenchError: a record cannot be read.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vcpus", type=int, nargs="+", default=[1, 8, 64, 255])
    parser.add_argument("--memory", type=int, nargs="+", default=[16, 1024, 4096], metavar="MIB")
    parser.add_argument("-n", type=int, default=5, help="trials of each shape")
    options = parser.parse_args()
    shapes = [(vcpus, mib) for mib, vcpus in product(options.memory, sorted(options.vcpus))]
    with TemporaryDirectory() as folder:
        records = Path(folder) / "records.jsonl"
        records.touch()
        for _ in range(options.n):
            for vcpus, mib in shapes:
                one_trial(vcpus, mib, records)
        made = record.read(records)[0]

    def trials(vcpus: int, mib: int) -> list[Record]:
        shape = (vcpus, mib)
        mine = [each for each in made if (each.shape.vcpus, each.shape.memory_mib) == shape]
        return [each for each in mine if each.outcome is not Outcome.LOST]

    titles = ["vCPUs", "memory", "n", *SHOWN, "all stages", "answer", "ratio"]
    print(f"| {' | '.join(titles)} |", "|---" * len(titles) + "|", sep="\n")
    for vcpus, mib in shapes:
        print(row(vcpus, mib, trials(vcpus, mib), trials(min(options.vcpus), mib)))


if __name__ == "__main__":
    try:
        main()
    except KickbenchError as error:
        print(f"big_guests: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
