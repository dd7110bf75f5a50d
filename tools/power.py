# SPDX-License-Identifier: BSD-3-Clause
"""Estimate how often the gate is wrong and which changes it finds, by resampling records.

    .venv/bin/python tools/power.py KERNEL [--records FILE] [--draws 1000] [--boots 5 8 12]
                                    [--hosts 1] [--on-one] [--tolerance 1.25] [--boot-is-run]
                                    [--native] [--plant NAME]

Both sides of each comparison are drawn from the boots of one kernel, for each host anew. For the
row of halves, the boots are divided between the sides. For the other rows, they are drawn with
replacement, and a change is planted in the candidate or, if the row's name says so, in both. Prints
the share of draws with each verdict, as a table in Markdown.

--hosts N        judge this many hosts, each with its own draw; may have several numbers
--on-one         plant the change in the candidate on one of the hosts only
--boot-is-run    count each run as a boot, for a host that was measured several times per boot
--native         judge latencies although they come from an emulated machine
--plant NAME     print only this row; may be given several times
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
from bench_lib.verdict.comparison import Verdict
from bench_lib.verdict.terms import DEFAULT_TERMS, Terms

STEP_NS = 100_000_000
LEAST_BOOTS = 4
CANDIDATE = Kernel("candidate", "#1")

Plant = Callable[[Record, random.Random], Record]


def unchanged(made: Record, chance: random.Random) -> Record:
    """Change nothing (A/A)."""
    return made


def hang_in_five(made: Record, chance: random.Random) -> Record:
    """Turn 1 of 5 trials of a stuck guest into a hang."""
    if made.scenario is ScenarioName.IDLE or chance.random() >= 0.2:
        return made
    return dataclasses.replace(made, outcome=Outcome.ASLEEP, latency_ns=None)


def refused_in_five(made: Record, chance: random.Random) -> Record:
    """Turn 1 of 5 trials of a stuck guest into a refusal with the same latency."""
    if made.scenario is ScenarioName.IDLE or chance.random() >= 0.2:
        return made
    return dataclasses.replace(made, outcome=Outcome.REFUSED)


def in_steps(made: Record, chance: random.Random) -> Record:
    """Delay the answer to the next multiple of 100 ms, counted from a random time."""
    assert made.latency_ns is not None
    offset = chance.randrange(STEP_NS)
    steps = math.ceil((offset + made.latency_ns) / STEP_NS)
    return dataclasses.replace(made, latency_ns=steps * STEP_NS - offset)


def times(factor: float, made: Record, chance: random.Random) -> Record:
    """Multiply the latency by a factor."""
    assert made.latency_ns is not None
    return dataclasses.replace(made, latency_ns=round(made.latency_ns * factor))


def one_in_four(made: Record, chance: random.Random) -> Record:
    """Make 1 of 4 answers take a hundred times as long."""
    return times(100, made, chance) if chance.random() < 0.25 else made


@dataclass(frozen=True)
class Planted:
    """A planted change.

    :ivar candidate: the change to each record of the candidate.
    :ivar base: the change to each record of the base.
    :ivar trials: the trials of each case that are kept per boot of the candidate; None for all.
    :ivar limits: whether the gate's absolute limits apply; a hang on both sides exceeds them too.
    """

    candidate: Plant = unchanged
    base: Plant = unchanged
    trials: int | None = None
    limits: bool = True


HALVES = "A/A, two halves"

ROWS: dict[str, Planted] = {
    HALVES: Planted(),
    "A/A": Planted(),
    "A/A, one trial per boot against all": Planted(trials=1),
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
"""In the first six rows, the kernels are the same or within the tolerance, so `fail` is wrong."""


def side(
    boots: list[list[Record]],
    kernel: Kernel,
    plant: Plant,
    chance: random.Random,
    trials: int | None = None,
) -> list[Record]:
    """The records of one side of a comparison.

    :param trials: the trials of each case that are kept per boot; None for all.
    """
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


@dataclass(frozen=True)
class Fleet:
    """How many hosts measure both kernels.

    :ivar on_one: whether the change is planted in the candidate on the first host only.
    """

    hosts: int = 1
    on_one: bool = False


def verdict(
    seed: int, boots: list[list[Record]], count: int, name: str, terms: Terms, fleet: Fleet
) -> Verdict:
    """The verdict of one draw.

    :param count: the number of boots of each kernel on each host.
    :param name: the row of `ROWS`.
    """
    chance = random.Random(seed)  # noqa: S311  # no secret
    planted = ROWS[name]
    base = boots[0][0].kernel
    if not planted.limits:
        terms = dataclasses.replace(terms, limits_ns={})
    drawn: list[Record] = []
    for number in range(fleet.hosts):
        if name == HALVES:
            chosen = chance.sample(boots, 2 * count)
        else:
            chosen = chance.choices(boots, k=2 * count)
        change = unchanged if fleet.on_one and number else planted.candidate
        drawn += on_host(
            number,
            [
                *side(chosen[:count], base, planted.base, chance),
                *side(chosen[count:], CANDIDATE, change, chance, planted.trials),
            ],
        )
    return gate.compare(drawn, base, CANDIDATE, terms).verdict


def on_host(number: int, records: list[Record]) -> list[Record]:
    """The records as those of a host with this number."""
    return [
        dataclasses.replace(each, host=dataclasses.replace(each.host, machine=f"host-{number}"))
        for each in records
    ]


def sample(arguments: argparse.Namespace) -> list[list[Record]]:
    """The returned trials of the kernel, by boot.

    :raise CannotCompare: there are too few boots with an answer in every case.
    """
    settings = Settings.from_environment()
    records, _ = record.read(arguments.records or settings.records)
    kernel = known(settings, arguments.kernel, records)
    boots: dict[str, list[Record]] = {}
    for made in records:
        if made.kernel == kernel and made.outcome is Outcome.RETURNED:
            # `returned` means the same in every schema, but planted outcomes are of today's schema.
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
            f"Only {len(found)} boots of {kernel.release} have an answer in every case, but "
            f"drawing takes at least {LEAST_BOOTS}; make more with `kickbench lab campaign`."
        )
    return found


def main() -> None:
    """Draw, and print the table.

    :raise KickbenchError: the kernel is unknown, or has too few records.
    """
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("kernel")
    parser.add_argument("--records", type=Path)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--boots", type=int, nargs="+", default=[5, 8, 12])
    parser.add_argument("--hosts", type=int, nargs="+", default=[1])
    parser.add_argument("--on-one", action="store_true")
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
    print("| planted | boots per kernel | fail | pass | inconclusive |\n|---|---|---|---|---|")
    rows = itertools.product(arguments.plant or ROWS, arguments.hosts, arguments.boots)
    with multiprocessing.Pool() as pool:
        for name, hosts, count in rows:
            if name == HALVES:
                # There is only one row for halves, with all boots.
                if count != arguments.boots[0]:
                    continue
                count = len(boots) // 2
            fleet = Fleet(hosts, arguments.on_one)
            work = partial(verdict, boots=boots, count=count, name=name, terms=terms, fleet=fleet)
            found = Counter(pool.imap_unordered(work, range(arguments.draws), chunksize=5))
            shares = (f"{found[each] / arguments.draws:.1%}" for each in Verdict)
            passed, failed, open_ = shares
            on = f", {hosts} hosts" if hosts > 1 else ""
            print(f"| {name}{on} | {count} | {failed} | {passed} | {open_} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KickbenchError as error:
        sys.exit(str(error))
