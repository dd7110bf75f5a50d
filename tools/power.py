# SPDX-License-Identifier: BSD-3-Clause
"""How often the gate is wrong, and how much it sees: drawn from records, with changes planted.

    .venv/bin/python tools/power.py KERNEL [--records FILE] [--draws 1000] [--boots 5 8 12]
                                    [--tolerance 1.25] [--boot-is-run] [--native] [--plant NAME]

The boots of one kernel are drawn for both sides of a comparison. For the row of halves they are
dealt out, each to one side; for the others they are drawn with replacement, and a change is planted
in the candidate or, where it says so, in both. Prints the share of draws with each verdict, as a
table in Markdown.

--boot-is-run    take each run for a boot, where a host was not booted as often as it was measured
--native         judge milliseconds although they are of an emulated machine
--plant NAME     only that row; may be given again
"""

import argparse
import dataclasses
import itertools
import math
import multiprocessing
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench_lib import record
from bench_lib.cli.gate import known
from bench_lib.errors import CannotCompare, KickbenchError
from bench_lib.record import SCHEMA, Host, Kernel, Outcome, Record, ScenarioName
from bench_lib.settings import Settings
from bench_lib.verdict import gate
from bench_lib.verdict.gate import Verdict
from bench_lib.verdict.terms import DEFAULT_TERMS, Terms

STEP_NS = 100_000_000
LEAST_BOOTS = 4
CANDIDATE = Kernel("candidate", "#1")

Plant = Callable[[Record, random.Random], Record]


def unchanged(made: Record, chance: random.Random) -> Record:
    """A/A."""
    return made


def hang_in_five(made: Record, chance: random.Random) -> Record:
    """A hang in 1 of 5 trials of a stuck guest."""
    if made.scenario is ScenarioName.IDLE or chance.random() >= 0.2:
        return made
    return dataclasses.replace(made, outcome=Outcome.ASLEEP, latency_ns=None)


def refused_in_five(made: Record, chance: random.Random) -> Record:
    """A refusal in 1 of 5 trials of a stuck guest, as soon as the answer came."""
    if made.scenario is ScenarioName.IDLE or chance.random() >= 0.2:
        return made
    return dataclasses.replace(made, outcome=Outcome.REFUSED)


def in_steps(made: Record, chance: random.Random) -> Record:
    """Answers only every 100 ms, from a random moment on."""
    assert made.latency_ns is not None
    begin = chance.randrange(STEP_NS)
    steps = math.ceil((begin + made.latency_ns) / STEP_NS)
    return dataclasses.replace(made, latency_ns=steps * STEP_NS - begin)


def times(factor: float, made: Record, chance: random.Random) -> Record:
    """Latencies times that."""
    assert made.latency_ns is not None
    return dataclasses.replace(made, latency_ns=round(made.latency_ns * factor))


def one_in_four(made: Record, chance: random.Random) -> Record:
    """One answer in four takes a hundred times as long."""
    return times(100, made, chance) if chance.random() < 0.25 else made


@dataclass(frozen=True)
class Planted:
    """What is planted.

    :ivar trials: of each case a boot of the candidate keeps; None for all.
    :ivar limits: whether the absolute limits count, which a hang in both breaks as well.
    """

    candidate: Plant = unchanged
    base: Plant = unchanged
    trials: int | None = None
    limits: bool = True


HALVES = "A/A, two halves"

ROWS: dict[str, Planted] = {
    HALVES: Planted(),
    "A/A": Planted(),
    "A/A, one trial a boot against all": Planted(trials=1),
    "hang in 1 of 5, in both; no limit": Planted(hang_in_five, hang_in_five, limits=False),
    "refused in 1 of 5, in both": Planted(refused_in_five, refused_in_five),
    "1.25 times slower": Planted(partial(times, 1.25)),
    "hang in 1 of 5": Planted(hang_in_five),
    "refused in 1 of 5": Planted(refused_in_five),
    "steps of 100 ms": Planted(in_steps),
    "1 in 4 takes 100 times as long": Planted(one_in_four),
    "20 % slower": Planted(partial(times, 1.2)),
    "2 times slower": Planted(partial(times, 2.0)),
}
"""The first six are of kernels that are alike, or within the tolerance: a fail is wrong there."""


def side(
    boots: list[list[Record]],
    kernel: Kernel,
    plant: Plant,
    chance: random.Random,
    trials: int | None = None,
) -> list[Record]:
    """The records of one side, of these boots."""
    found = []
    for number, boot in enumerate(boots):
        kept: Counter[object] = Counter()
        for made in boot:
            case = made.request, made.scenario
            if trials is None or kept[case] < trials:
                kept[case] += 1
                found.append(
                    dataclasses.replace(plant(made, chance), boot_id=f"{number}", kernel=kernel)
                )
    return found


def verdict(seed: int, boots: list[list[Record]], count: int, name: str, terms: Terms) -> Verdict:
    """Of one draw."""
    chance = random.Random(seed)  # noqa: S311  # no secret
    planted = ROWS[name]
    if name == HALVES:
        dealt = chance.sample(boots, 2 * count)
    else:
        dealt = chance.choices(boots, k=2 * count)
    base = boots[0][0].kernel
    if not planted.limits:
        terms = dataclasses.replace(terms, limits_ns={})
    drawn = [
        *side(dealt[:count], base, planted.base, chance),
        *side(dealt[count:], CANDIDATE, planted.candidate, chance, planted.trials),
    ]
    return gate.compare(drawn, base, CANDIDATE, terms).verdict


def sample(arguments: argparse.Namespace) -> list[list[Record]]:
    """The boots of the kernel, without what was lost or hung."""
    settings = Settings.from_environment()
    records, _ = record.read(arguments.records or settings.records)
    kernel = known(settings, arguments.kernel, records)
    boots: dict[str, list[Record]] = {}
    for made in records:
        if made.kernel == kernel and made.outcome is Outcome.RETURNED:
            # What returned means the same in every schema; what is planted is of today's.
            made = dataclasses.replace(made, schema=SCHEMA)
            if arguments.native:
                made = dataclasses.replace(made, host=Host("native", "kvm", made.host.machine))
            boots.setdefault(made.run_id if arguments.boot_is_run else made.boot_id, []).append(
                made
            )
    cases = [{(each.request, each.scenario) for each in boot} for boot in boots.values()]
    whole = set().union(*cases)
    found = [boot for boot, has in zip(boots.values(), cases, strict=True) if has == whole]
    if len(found) < LEAST_BOOTS:
        raise CannotCompare(
            f"{len(found)} boots of {kernel.release} have an answer in every case, and "
            f"{LEAST_BOOTS} are the least to draw from; `kickbench lab campaign` makes more."
        )
    return found


def main() -> None:
    """Draw, and print the table.

    :raise KickbenchError: there is nothing to draw from.
    """
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("kernel")
    parser.add_argument("--records", type=Path)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--boots", type=int, nargs="+", default=[5, 8, 12])
    parser.add_argument("--tolerance", type=float, default=DEFAULT_TERMS.tolerance)
    parser.add_argument("--boot-is-run", action="store_true")
    parser.add_argument("--native", action="store_true")
    parser.add_argument("--plant", action="append", choices=ROWS)
    arguments = parser.parse_args()
    boots = sample(arguments)
    terms = dataclasses.replace(DEFAULT_TERMS, tolerance=arguments.tolerance)
    print(
        f"{len(boots)} boots of {arguments.kernel}, {arguments.draws} draws, {terms.tolerance=}\n"
    )
    print("| planted | boots a side | fail | pass | inconclusive |\n|---|---|---|---|---|")
    with multiprocessing.Pool() as pool:
        for name, count in itertools.product(arguments.plant or ROWS, arguments.boots):
            if name == HALVES:
                # As many as there are, and no more often than that.
                if count != arguments.boots[0]:
                    continue
                count = len(boots) // 2
            work = partial(verdict, boots=boots, count=count, name=name, terms=terms)
            found = Counter(pool.imap_unordered(work, range(arguments.draws), chunksize=5))
            shares = (f"{found[each] / arguments.draws:.1%}" for each in Verdict)
            passed, failed, open_ = shares
            print(f"| {name} | {count} | {failed} | {passed} | {open_} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KickbenchError as error:
        sys.exit(str(error))
