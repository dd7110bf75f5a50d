"""Whether one kernel may follow another: the comparison of their records, and its verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from bench_lib.errors import CannotCompare
from bench_lib.record import (
    HUNG,
    SCORED,
    Host,
    Kernel,
    Outcome,
    Record,
    Request,
    Scenario,
    Shape,
)
from bench_lib.verdict import inference
from bench_lib.verdict.inference import Boot, Ratio
from bench_lib.verdict.summary import Wait, median_wait

NS_PER_S = 1_000_000_000

EMULATED = 10
"""How many times a limit is under emulation, where everything takes about ten times as long."""

HOST_FIELDS = ("cpu", "cpus", "governor", "turbo", "smt")
"""Of a set-up, what is the host's and not the kernel's choice."""


class Verdict(StrEnum):
    """Whether the candidate may be rolled out."""

    PASS = "pass"  # noqa: S105  # no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Terms:
    """What is asked of a candidate.

    :ivar tolerance: how many times as long it may take.
    :ivar limits_ns: the longest that anybody should wait for a request, whatever the baseline.
    :ivar late: the share of boots in which that may happen all the same.
    :ivar hanging: the share of boots with a hang that has to be ruled out.
    :ivar lost: the share of trials without a measurement from which on there is no verdict.
    :ivar alpha: how often a candidate that is no worse may fail; intervals leave out as much.
    :ivar looks: how often the question is asked, with more boots each time. Each look may spend its
        share of alpha (Bonferroni), whatever the looks have in common.
    """

    tolerance: float = 1.25
    limits_ns: Mapping[Request, int] = field(default_factory=lambda: {Request.STOP: NS_PER_S})
    late: float = 0.05
    hanging: float = 0.5
    lost: float = 0.1
    alpha: float = 0.05
    looks: int = 1

    @property
    def alpha_a_look(self) -> float:
        return self.alpha / self.looks


DEFAULT_TERMS = Terms()


@dataclass(frozen=True)
class Side:
    """One kernel in a row.

    :ivar hung: scored trials without an answer. :ivar median: of the scored.
    """

    boots: int
    trials: int
    hung: int
    lost: int
    median: Wait | None


@dataclass(frozen=True)
class Comparison:
    """One request in one scenario, under both kernels on one host.

    :ivar ratio: how many times as long the candidate takes; None where nothing was scored, or
        milliseconds mean nothing.
    :ivar hang_bound: the share of the candidate's boots with a hang that is still possible.
    :ivar p_hangs: adjusted for the whole family, as are `p_slower` and `p_late`. None where there
        is no such test.
    :ivar limit_ns: the absolute one that was applied.
    :ivar reasons: for the verdict, in words.
    :ivar boots_needed: of either kernel, which would settle it; None where it is settled or no
        number would.
    """

    host: Host
    request: Request
    scenario: Scenario
    shape: Shape
    base: Side
    candidate: Side
    ratio: Ratio | None
    hang_bound: float | None
    p_hangs: float | None
    p_slower: float | None
    p_late: float | None
    limit_ns: int | None
    verdict: Verdict
    reasons: tuple[str, ...]
    boots_needed: int | None


@dataclass(frozen=True)
class Gate:
    """The verdict over all rows. :ivar sentence: it in words."""

    base: Kernel
    candidate: Kernel
    verdict: Verdict
    sentence: str
    emulated: bool
    rows: tuple[Comparison, ...]

    @property
    def boots_needed(self) -> int | None:
        """Of either kernel, for all rows; None where no number is known to be enough."""
        needed = [each.boots_needed for each in self.rows if each.verdict is Verdict.INCONCLUSIVE]
        known = [each for each in needed if each is not None]
        return max(known) if known and len(known) == len(needed) else None


Key = tuple[Host, Request, Scenario, Shape]


@dataclass(frozen=True)
class _Pair:
    """The records of a row, and what the tests say of them."""

    key: Key
    base: list[Record]
    candidate: list[Record]
    base_boots: list[Boot]
    candidate_boots: list[Boot]
    limit_ns: int | None
    p: dict[str, float]

    @property
    def emulated(self) -> bool:
        return self.key[0].accelerator == "tcg"


def compare(
    records: Sequence[Record],
    base: Kernel,
    candidate: Kernel,
    terms: Terms = DEFAULT_TERMS,
    *,
    whatever_differs: bool = False,
) -> Gate:
    """Judge a candidate by what is recorded.

    :param whatever_differs: compare records that were made on differing hosts, QEMUs or settings.
    :raise CannotCompare: they were, or there is nothing to compare; the sentence says what.
    """
    sides = [
        _grouped(record for record in records if record.kernel == kernel)
        for kernel in (base, candidate)
    ]
    for kernel, side in zip((base, candidate), sides, strict=True):
        if not side:
            raise CannotCompare(
                f"There are no records of {kernel.release}; `kickbench lab campaign "
                f"{base.release} {candidate.release}` makes some."
            )
    if whatever_differs:
        sides = [_anywhere(side) for side in sides]
    else:
        _check_alike(sides, base, candidate)
    missing = [key for key in sides[0] if key not in sides[1]]
    if missing:
        raise CannotCompare(
            f"{candidate.release} lacks what {base.release} has: "
            f"{', '.join(f'{request} in {scenario}' for _, request, scenario, _ in missing)}."
        )
    pairs = [_paired(key, sides[0][key], sides[1][key], terms) for key in sides[0]]
    places = [(pair, name) for pair in pairs for name in pair.p]
    for (pair, name), adjusted in zip(
        places, inference.holm([pair.p[name] for pair, name in places]), strict=True
    ):
        pair.p[name] = adjusted
    rows = tuple(_judged(pair, terms, len(places)) for pair in pairs)
    verdict = _overall(rows)
    return Gate(
        base,
        candidate,
        verdict,
        _sentence(base, candidate, verdict, rows),
        any(pair.emulated for pair in pairs),
        rows,
    )


def _grouped(records: Iterable[Record]) -> dict[Key, list[Record]]:
    groups: dict[Key, list[Record]] = {}
    for record in records:
        key = (record.host, record.request, record.scenario, record.shape)
        groups.setdefault(key, []).append(record)
    return groups


def _anywhere(side: dict[Key, list[Record]]) -> dict[Key, list[Record]]:
    """The same with all hosts taken for one, of which only the accelerator is told."""
    merged: dict[Key, list[Record]] = {}
    for (host, *rest), group in side.items():
        key: Key = (Host(host.kind, host.accelerator, "any"), *rest)  # type: ignore[assignment]
        merged.setdefault(key, []).extend(group)
    return merged


def _check_alike(sides: Sequence[dict[Key, list[Record]]], base: Kernel, candidate: Kernel) -> None:
    """:raise CannotCompare: the records of the two sides were made on differing things."""
    told: tuple[tuple[str, Callable[[Record], object]], ...] = (
        ("hosts", lambda each: f"{each.host.machine} ({each.host.kind}, {each.host.accelerator})"),
        ("QEMUs", lambda each: each.qemu),
        ("deadlines", lambda each: f"{each.deadline_ns / NS_PER_S:g} s"),
        *((name, _of_setup(name)) for name in HOST_FIELDS),
    )
    for what, read in told:
        ours, theirs = (
            {found for group in side.values() for each in group if (found := read(each))}
            for side in sides
        )
        if ours and theirs and ours != theirs:
            raise CannotCompare(
                f"{base.release} and {candidate.release} were measured on differing {what}: "
                f"{_listed(ours)} and {_listed(theirs)}. --whatever-differs compares them all "
                "the same."
            )


def _of_setup(name: str) -> Callable[[Record], object]:
    def read(record: Record) -> object:
        value = getattr(record.setup, name, None)
        return None if value is None else str(value)

    return read


def _listed(values: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, values)))


def _paired(key: Key, base: list[Record], candidate: list[Record], terms: Terms) -> _Pair:
    base_boots, candidate_boots = _boots(base), _boots(candidate)
    emulated = key[0].accelerator == "tcg"
    limit_ns = terms.limits_ns.get(key[1])
    if limit_ns is not None and emulated:
        limit_ns *= EMULATED
    p: dict[str, float] = {}
    if base_boots and candidate_boots:
        p["hangs"] = inference.more_hangs(base_boots, candidate_boots)
        if not emulated:
            p["slower"] = inference.slower(base_boots, candidate_boots, terms.tolerance)
    if candidate_boots and limit_ns is not None:
        p["late"] = inference.beyond(candidate_boots, limit_ns, terms.late)
    return _Pair(key, base, candidate, base_boots, candidate_boots, limit_ns, p)


def _boots(records: Sequence[Record]) -> list[Boot]:
    """The scored trials by boot."""
    by_boot: dict[str, list[Record]] = {}
    for record in records:
        if record.outcome in SCORED:
            by_boot.setdefault(record.boot_id, []).append(record)
    return [
        Boot(
            tuple(each.waited_ns for each in group),
            tuple(each.outcome in HUNG for each in group),
        )
        for group in by_boot.values()
    ]


def _judged(pair: _Pair, terms: Terms, family: int) -> Comparison:
    confidence = 1 - terms.alpha_a_look
    host, request, scenario, shape = pair.key
    sides = _side(pair.base, pair.base_boots), _side(pair.candidate, pair.candidate_boots)
    ratio = None
    bound = None
    if pair.base_boots and pair.candidate_boots:
        bound = inference.hang_bound(pair.candidate_boots, confidence)
        if not pair.emulated:
            ratio = inference.ratio(pair.base_boots, pair.candidate_boots, confidence)
    verdict, reasons, needed = _verdict(pair, terms, family, sides, ratio, bound)
    return Comparison(
        host=host,
        request=request,
        scenario=scenario,
        shape=shape,
        base=sides[0],
        candidate=sides[1],
        ratio=ratio,
        hang_bound=bound,
        p_hangs=pair.p.get("hangs"),
        p_slower=pair.p.get("slower"),
        p_late=pair.p.get("late"),
        limit_ns=pair.limit_ns,
        verdict=verdict,
        reasons=reasons,
        boots_needed=needed,
    )


def _side(records: Sequence[Record], boots: Sequence[Boot]) -> Side:
    scored = [record for record in records if record.outcome in SCORED]
    return Side(
        boots=len(boots),
        trials=len(records),
        hung=sum(sum(boot.hung) for boot in boots),
        lost=sum(record.outcome is Outcome.LOST for record in records),
        median=median_wait(scored),
    )


def _verdict(
    pair: _Pair,
    terms: Terms,
    family: int,
    sides: tuple[Side, Side],
    ratio: Ratio | None,
    bound: float | None,
) -> tuple[Verdict, tuple[str, ...], int | None]:
    """The verdict of a row, why, and how many boots of either kernel would settle it."""
    base, candidate = sides
    alpha = terms.alpha_a_look
    for side, name in ((base, "the baseline"), (candidate, "the candidate")):
        if not side.boots:
            return Verdict.INCONCLUSIVE, (f"no trial of {name} gave a measurement",), None
        if side.lost > terms.lost * side.trials:
            text = f"{side.lost} of {side.trials} trials of {name} were lost"
            return Verdict.INCONCLUSIVE, (text,), None
    failures = []
    if pair.p["hangs"] < alpha:
        failures.append("hangs more often")
    if pair.p.get("late", 1.0) < alpha:
        assert pair.limit_ns is not None
        failures.append(f"does not keep to its limit of {pair.limit_ns / NS_PER_S:g} s")
    if pair.p.get("slower", 1.0) < alpha:
        failures.append(f"takes more than {terms.tolerance:g} times as long")
    if failures:
        return Verdict.FAIL, tuple(failures), None

    doubts = []
    needed = [0.0]
    if bound is not None and bound > terms.hanging and not _hung_alike(base, candidate):
        doubts.append(f"up to {bound:.0%} of boots may still hang")
        clean = candidate.hung == 0
        needed.append(
            inference.boots_to_bound(terms.hanging, 1 - alpha)
            if clean
            else inference.boots_to_reject(family, alpha)
        )
    if pair.p.get("late") is not None and _late(pair):
        doubts.append("a trial did not keep to the limit, too few to tell chance from rule")
        needed.append(2 * candidate.boots)
    if ratio is not None and ratio.high > terms.tolerance:
        doubts.append(f"it may take up to {_times(ratio.high)} as long")
        needed.append(_boots_for(ratio, terms, min(base.boots, candidate.boots)))
    if not doubts:
        return Verdict.PASS, (), None
    enough = None if any(math.isinf(each) for each in needed) else math.ceil(max(needed))
    return Verdict.INCONCLUSIVE, tuple(doubts), enough


def _hung_alike(base: Side, candidate: Side) -> bool:
    """Whether every trial hung under both kernels: nothing became worse, nor could it."""
    return all(side.hung == side.trials - side.lost for side in (base, candidate))


def _late(pair: _Pair) -> bool:
    assert pair.limit_ns is not None
    return any(
        hung or wait > pair.limit_ns
        for boot in pair.candidate_boots
        for wait, hung in zip(boot.waits_ns, boot.hung, strict=True)
    )


def _times(value: float) -> str:
    return "any number of times" if math.isinf(value) else f"{value:.2f} times"


def _boots_for(ratio: Ratio, terms: Terms, boots: int) -> float:
    """Boots of either kernel that would bring the interval to one side of the tolerance.

    By its width, which shrinks with the root of their number.
    """
    least = inference.boots_to_estimate(1 - terms.alpha_a_look)
    if boots < least:
        return least
    away = abs(math.log(terms.tolerance) - math.log(ratio.at_least)) if ratio.at_least else 0.0
    if math.isinf(ratio.high) or not away:
        return math.inf
    half = math.log(ratio.high) - math.log(ratio.at_least)
    return max(boots + 1.0, boots * (half / away) ** 2)


def _overall(rows: Sequence[Comparison]) -> Verdict:
    verdicts = {row.verdict for row in rows}
    for each in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        if each in verdicts:
            return each
    return Verdict.PASS


def _sentence(base: Kernel, candidate: Kernel, verdict: Verdict, rows: Sequence[Comparison]) -> str:
    """The last line."""
    deciding = [row for row in rows if row.verdict is verdict]
    if verdict is Verdict.PASS:
        return (
            f"{candidate.release} may follow {base.release}: in {len(rows)} of {len(rows)} "
            "comparisons it is no worse."
        )
    first = deciding[0]
    why = f"{first.request} in {first.scenario}: {'; '.join(first.reasons)}"
    more = f" (and {len(deciding) - 1} more)" if len(deciding) > 1 else ""
    if verdict is Verdict.FAIL:
        return f"{candidate.release} must not follow {base.release}: {why}{more}."
    needed = [row.boots_needed for row in deciding]
    enough = max((each for each in needed if each is not None), default=None)
    settle = f" {enough} boots of each would settle it." if enough and None not in needed else ""
    return (
        f"Whether {candidate.release} may follow {base.release} is not known yet: {why}{more}."
        f"{settle}"
    )
