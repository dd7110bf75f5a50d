"""Whether one kernel may follow another: the comparison of their records, and its verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from bench_lib.errors import CannotCompare
from bench_lib.record import HUNG, SCORED, Host, Kernel, Record, Request, Scenario, Shape
from bench_lib.verdict import inference
from bench_lib.verdict.inference import Boot, Ratio
from bench_lib.verdict.pairing import NS_PER_S, Key, Pair, host_name, key_name, paired
from bench_lib.verdict.summary import Wait, median_wait

EMULATED = 10
"""How many times a limit is under emulation, where everything takes about ten times as long."""


class Verdict(StrEnum):
    """Whether the candidate may be rolled out."""

    PASS = "pass"  # noqa: S105  # no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Terms:
    """What is asked of a candidate.

    :ivar tolerance: how many times as long it may take.
    :ivar stall: how many times the baseline's median an answer takes that is a stall.
    :ivar limits_ns: the longest that anybody should wait for a request, whatever the baseline.
    :ivar late: the share of boots in which that may happen all the same.
    :ivar hanging: the share of boots with a hang that has to be ruled out, and of those with a
        stall.
    :ivar lost: the share of trials without a measurement from which on there is no verdict.
    :ivar alpha: how often a candidate that is no worse may fail; intervals leave out as much.
    :ivar looks: how often the question is asked, with more boots each time. Each look may spend its
        share of alpha (Bonferroni), whatever the looks have in common.
    """

    tolerance: float = 1.25
    stall: float = 10.0
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

    :ivar boots: with a trial that measured something.
    :ivar hung: scored trials without an answer.
    :ivar lost: trials that measured nothing: lost, or refused.
    :ivar damaged: trials whose guest found its memory changed.
    :ivar median: of the scored.
    """

    boots: int
    trials: int
    hung: int
    lost: int
    damaged: int
    median: Wait | None


@dataclass(frozen=True)
class Comparison:
    """One request in one scenario, under both kernels on one host.

    :ivar ratio: how many times as long the candidate takes; None where nothing was scored, or
        milliseconds mean nothing.
    :ivar hang_bound: the share of the candidate's boots with a hang that is still possible.
    :ivar p_hangs: adjusted for the whole family, as are `p_slower`, `p_stalls` and `p_late`. None
        where there is no such test.
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
    p_stalls: float | None
    p_late: float | None
    limit_ns: int | None
    verdict: Verdict
    reasons: tuple[str, ...]
    boots_needed: int | None

    @property
    def name(self) -> str:
        """What it is of, for people."""
        return key_name(Key(self.host, self.request, self.scenario, self.shape))


@dataclass(frozen=True)
class Gate:
    """The verdict over all rows.

    :ivar sentence: it in words.
    :ivar left_out: hosts that only one of the kernels was measured on.
    :ivar notes: what else the two were made with, where that differs, in words.
    :ivar unread: lines of the record file that could not be read, and may have been of either.
    """

    base: Kernel
    candidate: Kernel
    verdict: Verdict
    sentence: str
    emulated: bool
    rows: tuple[Comparison, ...]
    left_out: tuple[Host, ...]
    notes: tuple[str, ...] = ()
    unread: int = 0

    @property
    def boots_needed(self) -> int | None:
        """Of either kernel, for all rows; None where no number is known to be enough."""
        needed = [each.boots_needed for each in self.rows if each.verdict is Verdict.INCONCLUSIVE]
        known = [each for each in needed if each is not None]
        return max(known) if known and len(known) == len(needed) else None


@dataclass(frozen=True)
class _Row:
    """A pair, by boot, and what the tests say of it.

    :ivar even_base: for tests of one against the other, as `even_candidate`; see `inference.even`.
    :ivar stall_ns: from which on an answer is a stall; None where milliseconds mean nothing.
    :ivar p: by the name of the test.
    """

    key: Key
    base: Side
    candidate: Side
    base_boots: list[Boot]
    candidate_boots: list[Boot]
    even_base: list[Boot]
    even_candidate: list[Boot]
    limit_ns: int | None
    stall_ns: float | None
    p: dict[str, float]

    @property
    def emulated(self) -> bool:
        return _emulated(self.key)


def compare(
    records: Sequence[Record],
    base: Kernel,
    candidate: Kernel,
    terms: Terms = DEFAULT_TERMS,
    *,
    whatever_differs: bool = False,
    unread: int = 0,
) -> Gate:
    """Judge a candidate by what is recorded.

    :param whatever_differs: compare records that were made on differing hosts, QEMUs or settings.
    :param unread: lines beside the records that could not be read.
    :raise CannotCompare: they were, or there is nothing to compare; the sentence says what.
    """
    found = paired(records, base, candidate, whatever_differs=whatever_differs)
    tested = [_tested(pair, terms) for pair in found.pairs]
    places = [(row, name) for row in tested for name in row.p]
    for (row, name), adjusted in zip(
        places, inference.holm([row.p[name] for row, name in places]), strict=True
    ):
        row.p[name] = adjusted
    rows = tuple(_judged(row, terms, len(places)) for row in tested)
    verdict = _overall(rows)
    sentence = _sentence(base, candidate, verdict, rows)
    if verdict is Verdict.PASS and (doubt := _elsewhere(found.alone)):
        verdict, sentence = Verdict.INCONCLUSIVE, _not_known(base, candidate, doubt)
    return Gate(
        base,
        candidate,
        verdict,
        sentence,
        any(row.emulated for row in tested),
        rows,
        found.left_out,
        found.notes,
        unread,
    )


def _elsewhere(alone: Sequence[Record]) -> str | None:
    """What speaks against a pass on hosts that the baseline was not measured on."""
    bad = [each for each in alone if each.outcome in HUNG or _damaged(each)]
    if not bad:
        return None
    where = ", ".join(sorted({host_name(each.host) for each in bad}))
    return (
        f"{len(bad)} of its {len(alone)} trials on other hosts hung or damaged memory ({where}), "
        "and the baseline was not measured there"
    )


def _damaged(record: Record) -> bool:
    return record.recovery is not None and record.recovery.memory == "damaged"


def _emulated(key: Key) -> bool:
    return key.host.accelerator == "tcg"


def _tested(pair: Pair, terms: Terms) -> _Row:
    # Whoever was given up earliest: beyond that nothing is known of them, so not of others either.
    deadline_ns = min(record.deadline_ns for record in (*pair.base, *pair.candidate))
    base, candidate = (_boots(records, deadline_ns) for records in (pair.base, pair.candidate))
    limit_ns = _limit(pair.key, deadline_ns, terms)
    stall_ns = None
    p: dict[str, float] = {}
    alike = base, candidate
    if base and candidate:
        alike = inference.even(base, candidate)
        p["hangs"] = inference.more_hangs(*alike)
        if not _emulated(pair.key):
            stall_ns = terms.stall * inference.usual_wait_ns(base)
            p["slower"] = inference.slower(*alike, terms.tolerance)
            p["stalls"] = inference.more_stalls(*alike, stall_ns)
    if candidate and limit_ns is not None:
        p["late"] = inference.beyond(candidate, limit_ns, terms.late)
    sides = _side(pair.base, base), _side(pair.candidate, candidate)
    return _Row(pair.key, *sides, base, candidate, *alike, limit_ns, stall_ns, p)


def _limit(key: Key, deadline_ns: int, terms: Terms) -> int | None:
    """None where there is none: a guest that is no test of the flag hangs on every kernel.

    :raise CannotCompare: the trials were given up before the limit.
    """
    limit_ns = terms.limits_ns.get(key.request)
    if limit_ns is None or not key.shape.tests_the_flag:
        return None
    if _emulated(key):
        return min(limit_ns * EMULATED, deadline_ns)
    if limit_ns > deadline_ns:
        raise CannotCompare(
            f"The limit of {key.request}, {limit_ns / NS_PER_S:g} s, is beyond the deadline of its "
            f"trials, {deadline_ns / NS_PER_S:g} s; set KICKBENCH_DEADLINE and measure anew."
        )
    return limit_ns


def _boots(records: Sequence[Record], deadline_ns: int) -> list[Boot]:
    """The scored trials by boot. Later than the deadline is without an answer."""
    by_boot: dict[str, list[Record]] = {}
    for record in records:
        if record.outcome in SCORED:
            by_boot.setdefault(record.boot_id, []).append(record)
    return [
        Boot(
            # At least 1, for a file may have been edited, and ratios are of what is above 0.
            tuple(max(1, min(each.waited_ns, deadline_ns)) for each in group),
            tuple(each.outcome in HUNG or each.waited_ns > deadline_ns for each in group),
        )
        for group in by_boot.values()
    ]


def _side(records: Sequence[Record], boots: Sequence[Boot]) -> Side:
    scored = [record for record in records if record.outcome in SCORED]
    return Side(
        boots=len(boots),
        trials=len(records),
        hung=sum(sum(boot.hung) for boot in boots),
        lost=len(records) - len(scored),
        damaged=sum(map(_damaged, records)),
        median=median_wait(scored),
    )


def _judged(row: _Row, terms: Terms, family: int) -> Comparison:
    confidence = 1 - terms.alpha_a_look
    ratio = None
    bound = None
    if row.base_boots and row.candidate_boots:
        hits = inference.hanging_boots(row.candidate_boots)
        bound = inference.bound_above(hits, row.candidate.boots, confidence)
        if not row.emulated:
            ratio = inference.ratio(row.base_boots, row.candidate_boots, confidence)
    verdict, reasons, needed = _verdict(row, terms, family, ratio, bound)
    return Comparison(
        host=row.key.host,
        request=row.key.request,
        scenario=row.key.scenario,
        shape=row.key.shape,
        base=row.base,
        candidate=row.candidate,
        ratio=ratio,
        hang_bound=bound,
        p_hangs=row.p.get("hangs"),
        p_slower=row.p.get("slower"),
        p_stalls=row.p.get("stalls"),
        p_late=row.p.get("late"),
        limit_ns=row.limit_ns,
        verdict=verdict,
        reasons=reasons,
        boots_needed=needed,
    )


def _verdict(
    row: _Row, terms: Terms, family: int, ratio: Ratio | None, bound: float | None
) -> tuple[Verdict, tuple[str, ...], int | None]:
    """The verdict of a row, why, and how many boots of either kernel would settle it."""
    if row.candidate.damaged:
        text = f"{row.candidate.damaged} of its guests found their memory damaged"
        return Verdict.FAIL, (text,), None
    for side, name in ((row.base, "the baseline"), (row.candidate, "the candidate")):
        if not side.boots:
            return Verdict.INCONCLUSIVE, (f"no trial of {name} gave a measurement",), None
        if side.lost > terms.lost * side.trials:
            text = f"{side.lost} of {side.trials} trials of {name} measured nothing"
            return Verdict.INCONCLUSIVE, (text,), None
    if failures := _failures(row, terms):
        return Verdict.FAIL, failures, None
    assert bound is not None
    doubts = [
        *_doubts_of_hangs(row, terms, family, bound),
        *_doubts_of_lateness(row, terms),
        *_doubts_of_time(row, terms, ratio),
        *_doubts_of_stalls(row, terms),
    ]
    if not doubts:
        return Verdict.PASS, (), None
    needed = max(each.boots for each in doubts)
    boots = min(row.base.boots, row.candidate.boots)
    enough = math.ceil(needed) if boots < needed < math.inf else None
    return Verdict.INCONCLUSIVE, tuple(each.text for each in doubts), enough


def _failures(row: _Row, terms: Terms) -> tuple[str, ...]:
    found = []
    if row.p["hangs"] < terms.alpha_a_look:
        found.append("hangs more often")
    if row.p.get("late", 1.0) < terms.alpha_a_look:
        assert row.limit_ns is not None
        found.append(f"has no answer within {row.limit_ns / NS_PER_S:g} s")
    if row.p.get("slower", 1.0) < terms.alpha_a_look:
        found.append(f"takes more than {terms.tolerance:g} times as long")
    if row.p.get("stalls", 1.0) < terms.alpha_a_look:
        found.append(f"takes more than {terms.stall:g} times the usual more often")
    return tuple(found)


@dataclass(frozen=True)
class _Doubt:
    """Why there is no pass. :ivar boots: of either kernel, which would remove it; or infinity."""

    text: str
    boots: float


def _all_hang(row: _Row) -> bool:
    """Whether no trial of either kernel was answered: nothing became worse, nor could it."""
    return all(side.hung == side.trials - side.lost for side in (row.base, row.candidate))


def _doubts_of_hangs(row: _Row, terms: Terms, family: int, bound: float) -> list[_Doubt]:
    if _all_hang(row):
        least = inference.boots_to_estimate(1 - terms.alpha_a_look)
        if min(row.base.boots, row.candidate.boots) < least:
            return [_Doubt("too few boots, though all of them hang", least)]
        return []
    ours, theirs = (
        inference.hanging_share(boots) for boots in (row.candidate_boots, row.base_boots)
    )
    if ours > theirs:
        text = f"{ours:.0%} of its trials hang, and {theirs:.0%} of the baseline's"
        return [_Doubt(text, _boots_to_tell(row, terms, family))]
    confidence = 1 - terms.alpha_a_look
    before = inference.hanging_boots(row.even_base)
    if bound <= max(terms.hanging, inference.bound_below(before, row.base.boots, confidence)):
        return []
    text = f"up to {bound:.0%} of boots may still hang"
    hanging = inference.hanging_boots(row.candidate_boots) / row.candidate.boots
    return [_Doubt(text, inference.boots_to_bound(terms.hanging, confidence, hanging))]


def _doubts_of_stalls(row: _Row, terms: Terms) -> list[_Doubt]:
    if row.stall_ns is None:
        return []
    confidence = 1 - terms.alpha_a_look
    ours = inference.stalling_boots(row.candidate_boots, row.stall_ns)
    theirs = inference.stalling_boots(row.even_base, row.stall_ns)
    no_more = ours / row.candidate.boots <= theirs / row.base.boots
    if no_more or inference.bound_above(ours, row.candidate.boots, confidence) <= terms.hanging:
        return []
    text = (
        f"{ours} of {row.candidate.boots} boots had an answer after more than {terms.stall:g} "
        f"times the usual, and {theirs} of {row.base.boots} of the baseline"
    )
    enough = inference.boots_to_bound(terms.hanging, confidence, ours / row.candidate.boots)
    return [_Doubt(text, enough)]


def _boots_to_tell(row: _Row, terms: Terms, family: int) -> float:
    """Boots with which the same difference would be rejected, as far as that can be foreseen."""
    now = inference.more_hangs(row.even_base, row.even_candidate)
    boots = min(row.base.boots, row.candidate.boots)
    least = inference.boots_to_reject(family, terms.alpha_a_look)
    return max(least, inference.boots_for_p(now, terms.alpha_a_look / family, boots))


def _doubts_of_lateness(row: _Row, terms: Terms) -> list[_Doubt]:
    if row.limit_ns is None or _all_hang(row):
        return []
    late = inference.late_boots(row.candidate_boots, row.limit_ns)
    # As many as would show one at the least, if there were more than are allowed.
    enough = inference.boots_to_bound(terms.late, 1 - terms.alpha_a_look)
    boots = row.candidate.boots
    if not late or (late <= terms.late * boots and boots >= enough):
        return []
    text = (
        f"{late} of {boots} boots had no answer within {row.limit_ns / NS_PER_S:g} s, too few to "
        "tell chance from rule"
    )
    return [_Doubt(text, enough)]


def _doubts_of_time(row: _Row, terms: Terms, ratio: Ratio | None) -> list[_Doubt]:
    if ratio is None or ratio.high <= terms.tolerance or _all_hang(row):
        return []
    longest = "any number of" if math.isinf(ratio.high) else f"{ratio.high:.2f}"
    return [_Doubt(f"it may take up to {longest} times as long", _boots_for(ratio, terms, row))]


def _boots_for(ratio: Ratio, terms: Terms, row: _Row) -> float:
    """Boots of either kernel that would bring the interval to one side of the tolerance.

    By its width, which shrinks with the root of their number.
    """
    boots = min(row.base.boots, row.candidate.boots)
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
        bound = max(row.hang_bound or 0.0 for row in rows)
        return (
            f"{candidate.release} may follow {base.release}: in {len(rows)} of {len(rows)} "
            f"comparisons it is no worse; hangs in up to {bound:.0%} of boots are not ruled out."
        )
    first = deciding[0]
    why = f"{first.name}: {'; '.join(first.reasons)}"
    more = f" (and {len(deciding) - 1} more)" if len(deciding) > 1 else ""
    if verdict is Verdict.FAIL:
        return f"{candidate.release} must not follow {base.release}: {why}{more}."
    needed = [row.boots_needed for row in deciding]
    enough = max((each for each in needed if each is not None), default=None)
    settle = f" {enough} boots of each would settle it." if enough and None not in needed else ""
    return f"{_not_known(base, candidate, why + more)}{settle}"


def _not_known(base: Kernel, candidate: Kernel, why: str) -> str:
    return f"Whether {candidate.release} may follow {base.release} is not known yet: {why}."
