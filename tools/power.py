"""How often the gate is wrong, and how much it sees: drawn from records, with changes planted.

    .venv/bin/python tools/power.py KERNEL [--records FILE] [--draws 1000] [--boots 5 8 12]
                                    [--tolerance 1.25] [--boot-is-run] [--native]

The boots of one kernel are drawn with replacement for both sides of a comparison: for the rows
A/A as they are, for the others with a change planted in each trial of the candidate. Prints the
share of draws with each verdict, as a table in Markdown.

--boot-is-run    take each run for a boot, where a host was not booted as often as it was measured
--native         judge milliseconds although they are of an emulated machine
"""

import argparse
import dataclasses
import math
import multiprocessing
import random
from collections import Counter
from collections.abc import Callable
from functools import partial

from bench_lib import record
from bench_lib.cli.gate import known
from bench_lib.record import Host, Kernel, Outcome, Record, Scenario
from bench_lib.settings import Settings
from bench_lib.verdict import gate
from bench_lib.verdict.gate import Terms, Verdict

STEP_NS = 100_000_000
CANDIDATE = Kernel("candidate", "#1")

Plant = Callable[[Record, random.Random], Record]


def unchanged(made: Record, chance: random.Random) -> Record:
    """A/A."""
    return made


def hang_in_five(made: Record, chance: random.Random) -> Record:
    """A hang in 1 of 5 trials of a stuck guest."""
    if made.scenario is Scenario.IDLE or chance.random() >= 0.2:
        return made
    return dataclasses.replace(made, outcome=Outcome.ASLEEP, latency_ns=None)


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


PLANTS: dict[str, Plant] = {
    "A/A": unchanged,
    "hang in 1 of 5": hang_in_five,
    "steps of 100 ms": in_steps,
    "20 % slower": partial(times, 1.2),
    "2 times slower": partial(times, 2.0),
}


def draw(
    boots: list[list[Record]], count: int, plant: Plant | None, chance: random.Random
) -> list[Record]:
    """Boots of one side. :param plant: None for the baseline."""
    found = []
    for number in range(count):
        for made in chance.choice(boots):
            changed = made if plant is None else plant(made, chance)
            found.append(
                dataclasses.replace(
                    changed,
                    boot_id=f"{number}",
                    kernel=made.kernel if plant is None else CANDIDATE,
                )
            )
    return found


def verdict(
    seed: int, boots: list[list[Record]], count: int, plant: Plant, terms: Terms
) -> Verdict:
    """Of one draw."""
    chance = random.Random(seed)  # noqa: S311  # no secret
    drawn = [*draw(boots, count, None, chance), *draw(boots, count, plant, chance)]
    return gate.compare(drawn, drawn[0].kernel, CANDIDATE, terms).verdict


def sample(arguments: argparse.Namespace) -> list[list[Record]]:
    """The boots of the kernel, without what was lost or hung."""
    settings = Settings.from_environment()
    records, _ = record.read(arguments.records or settings.records)
    kernel = known(arguments.kernel, records)
    boots: dict[str, list[Record]] = {}
    for made in records:
        if made.kernel == kernel and made.outcome is Outcome.RETURNED:
            if arguments.native:
                made = dataclasses.replace(made, host=Host("native", "kvm", made.host.machine))
            boots.setdefault(made.run_id if arguments.boot_is_run else made.boot_id, []).append(
                made
            )
    cases = [{(each.request, each.scenario) for each in boot} for boot in boots.values()]
    whole = set.union(*cases)
    return [boot for boot, has in zip(boots.values(), cases, strict=True) if has == whole]


def main() -> None:
    """Draw, and print the table."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("kernel")
    parser.add_argument("--records")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--boots", type=int, nargs="+", default=[5, 8, 12])
    parser.add_argument("--tolerance", type=float, default=gate.DEFAULT_TERMS.tolerance)
    parser.add_argument("--boot-is-run", action="store_true")
    parser.add_argument("--native", action="store_true")
    parser.add_argument("--plant", action="append", choices=PLANTS)
    arguments = parser.parse_args()
    boots = sample(arguments)
    terms = dataclasses.replace(gate.DEFAULT_TERMS, tolerance=arguments.tolerance)
    print(
        f"{len(boots)} boots of {arguments.kernel}, {arguments.draws} draws, {terms.tolerance=}\n"
    )
    print("| planted | boots a side | fail | pass | inconclusive |\n|---|---|---|---|---|")
    with multiprocessing.Pool() as pool:
        for name in arguments.plant or PLANTS:
            for count in arguments.boots:
                work = partial(verdict, boots=boots, count=count, plant=PLANTS[name], terms=terms)
                found = Counter(pool.imap_unordered(work, range(arguments.draws), chunksize=5))
                shares = (f"{found[each] / arguments.draws:.1%}" for each in Verdict)
                passed, failed, open_ = shares
                print(f"| {name} | {count} | {failed} | {passed} | {open_} |", flush=True)


if __name__ == "__main__":
    main()
