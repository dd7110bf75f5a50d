# SPDX-License-Identifier: BSD-3-Clause
"""The gate: compares the records of two kernels, and decides whether one may follow the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench_lib.record import FAILED, Host, Kernel, Key, Record
from bench_lib.units import NS_PER_S
from bench_lib.verdict import inference
from bench_lib.verdict.by_boot import hanging_boots
from bench_lib.verdict.doubts import doubts, refuses_more
from bench_lib.verdict.effect import Ratio, ratio
from bench_lib.verdict.matching import Untried, host_name, matched
from bench_lib.verdict.mixes import Mixes
from bench_lib.verdict.terms import DEFAULT_TERMS, Terms
from bench_lib.verdict.tested import KernelCounts, Tested, tested


class Verdict(StrEnum):
    """Whether the candidate may be rolled out."""

    PASS = "pass"  # noqa: S105  # This is not a password.
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Comparison:
    """The comparison of two kernels by the trials of one key.

    Each p value is adjusted for all tests of the gate, and None if the test was not made.

    :ivar ratio: how many times as long the candidate takes; None if nothing was scored, or if times
        are not compared, because the trials were emulated or their vCPUs stuck on other paths.
    :ivar hang_bound: the largest share of the candidate's boots with a hang that is not ruled out.
    :ivar limit_ns: the absolute limit that was applied; None if there is none.
    :ivar reasons: the reasons for the verdict, in words.
    :ivar boots_needed: boots per kernel that would settle the verdict; None if it is settled, or if
        no number is known to settle it.
    :ivar mixes: the paths on which vCPUs were stuck, if that differed between trials.
    """

    key: Key
    base: KernelCounts
    candidate: KernelCounts
    ratio: Ratio | None
    hang_bound: float | None
    p_hangs: float | None
    p_refusals: float | None
    p_slower: float | None
    p_stalls: float | None
    p_late: float | None
    limit_ns: int | None
    verdict: Verdict
    reasons: tuple[str, ...]
    boots_needed: int | None
    mixes: Mixes | None


@dataclass(frozen=True)
class Gate:
    """The verdict over all rows.

    :ivar sentence: the verdict in words.
    :ivar left_out: hosts on which only one of the kernels was measured.
    :ivar notes: settings that differ between the kernels and may be their choice, in words.
    :ivar unread: number of lines of the record file that could not be read. They may hold trials of
        either kernel.
    :ivar untried: the trials of either kernel that were not tried, and so are left out.
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
    untried: tuple[Untried, ...] = ()

    @property
    def boots_needed(self) -> int | None:
        """Boots per kernel that would settle all rows; None if no number is known to."""
        needed = [each.boots_needed for each in self.rows if each.verdict is Verdict.INCONCLUSIVE]
        known = [each for each in needed if each is not None]
        return max(known) if known and len(known) == len(needed) else None


def compare(
    records: Sequence[Record],
    base: Kernel,
    candidate: Kernel,
    terms: Terms = DEFAULT_TERMS,
    *,
    whatever_differs: bool = False,
    unread: int = 0,
) -> Gate:
    """Judge a candidate by the records.

    :param whatever_differs: also compare records of differing hosts, QEMUs or settings.
    :param unread: number of lines of the record file that could not be read.
    :raise CannotCompare: the records differ in this way, or there is nothing to compare.
    """
    found = matched(records, base, candidate, whatever_differs=whatever_differs)
    tested_keys = [tested(match, terms) for match in found.matches]
    places = [(row, name) for row in tested_keys for name in row.p]
    for (row, name), adjusted in zip(
        places, inference.holm([row.p[name] for row, name in places]), strict=True
    ):
        row.p[name] = adjusted
    rows = tuple(_judged(row, terms, len(places)) for row in tested_keys)
    verdict = _overall(rows)
    sentence = _sentence(base, candidate, verdict, rows)
    doubt = _missed(found.missed) or _alone(found.alone)
    if verdict is Verdict.PASS and doubt:
        verdict, sentence = Verdict.INCONCLUSIVE, _not_known(base, candidate, doubt)
    return Gate(
        base,
        candidate,
        verdict,
        sentence,
        any(row.emulated for row in tested_keys),
        rows,
        found.left_out,
        found.notes,
        unread,
        found.untried,
    )


def _missed(missed: Sequence[Key]) -> str | None:
    """Return what speaks against a pass if only the baseline was tried with some keys."""
    if not missed:
        return None
    more = f" (and {len(missed) - 1} more)" if len(missed) > 1 else ""
    return f"{missed[0].name}: the baseline was measured, and the candidate was not tried{more}"


def _alone(alone: Sequence[Record]) -> str | None:
    """Return what speaks against a pass in trials for which the baseline was not measured."""
    bad = [each for each in alone if each.outcome in FAILED or each.damaged]
    if not bad:
        return None
    where = ", ".join(sorted({f"{each.key.place} on {host_name(each.host)}" for each in bad}))
    return (
        f"{len(bad)} of its {len(alone)} trials where the baseline was not measured hung, died or "
        f"damaged memory ({where})"
    )


def _judged(row: Tested, terms: Terms, family: int) -> Comparison:
    effect = None
    bound = None
    if row.base_boots and row.candidate_boots:
        hits = hanging_boots(row.candidate_boots)
        bound = inference.bound_above(hits, row.candidate.boots, terms.confidence)
        if row.timed is not None:
            effect = ratio(row.timed.base, row.timed.candidate, terms.confidence)
    verdict, reasons, needed = _verdict(row, terms, family, effect, bound)
    return Comparison(
        key=row.key,
        base=row.base,
        candidate=row.candidate,
        ratio=effect,
        hang_bound=bound,
        p_hangs=row.p.get("hangs"),
        p_refusals=row.p.get("refusals"),
        p_slower=row.p.get("slower"),
        p_stalls=row.p.get("stalls"),
        p_late=row.p.get("late"),
        limit_ns=row.limit_ns,
        verdict=verdict,
        reasons=reasons,
        boots_needed=needed,
        mixes=row.mixes,
    )


def _verdict(
    row: Tested, terms: Terms, family: int, effect: Ratio | None, bound: float | None
) -> tuple[Verdict, tuple[str, ...], int | None]:
    """Return the verdict of a row, its reasons, and the boots per kernel that would settle it."""
    if row.candidate.damaged:
        text = f"{row.candidate.damaged} of its guests found their memory damaged"
        return Verdict.FAIL, (text,), None
    for counts, name in ((row.base, "the baseline"), (row.candidate, "the candidate")):
        if not counts.boots:
            return Verdict.INCONCLUSIVE, (f"no trial of {name} gave a measurement",), None
        if counts.lost > terms.lost * counts.trials:
            text = f"{counts.lost} of {counts.trials} trials of {name} measured nothing"
            return Verdict.INCONCLUSIVE, (text,), None
    if failures := _failures(row, terms):
        return Verdict.FAIL, failures, None
    assert bound is not None
    found = doubts(row, terms, family, effect, bound)
    if not found:
        return Verdict.PASS, (), None
    needed = max(each.boots for each in found)
    boots = min(row.base.boots, row.candidate.boots)
    enough = math.ceil(needed) if boots < needed < math.inf else None
    return Verdict.INCONCLUSIVE, tuple(each.text for each in found), enough


def _failures(row: Tested, terms: Terms) -> tuple[str, ...]:
    found = []
    if row.p["hangs"] < terms.alpha_per_look:
        found.append(f"hangs{' or dies' if row.candidate.died else ''} more often")
    if row.p.get("refusals", 1.0) < terms.alpha_per_look and refuses_more(row):
        found.append("refuses more often")
    if row.p.get("late", 1.0) < terms.alpha_per_look:
        assert row.limit_ns is not None
        found.append(f"has no answer within {row.limit_ns / NS_PER_S:g} s")
    if row.p.get("slower", 1.0) < terms.alpha_per_look:
        found.append(f"takes more than {terms.tolerance:g} times as long")
    if row.p.get("stalls", 1.0) < terms.alpha_per_look:
        found.append(f"takes more than {terms.stall:g} times the usual wait more often")
    return tuple(found)


def _overall(rows: Sequence[Comparison]) -> Verdict:
    verdicts = {row.verdict for row in rows}
    for each in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        if each in verdicts:
            return each
    return Verdict.PASS


def _sentence(base: Kernel, candidate: Kernel, verdict: Verdict, rows: Sequence[Comparison]) -> str:
    """Return the verdict in one sentence, the last line of the output."""
    deciding = [row for row in rows if row.verdict is verdict]
    if verdict is Verdict.PASS:
        bound = max(row.hang_bound or 0.0 for row in rows)
        return (
            f"{candidate.release} may follow {base.release}: in {len(rows)} of {len(rows)} "
            f"comparisons it is no worse; hangs in up to {bound:.0%} of boots are not ruled out."
        )
    first = deciding[0]
    why = f"{first.key.name}: {'; '.join(first.reasons)}"
    more = f" (and {len(deciding) - 1} more)" if len(deciding) > 1 else ""
    if verdict is Verdict.FAIL:
        return f"{candidate.release} must not follow {base.release}: {why}{more}."
    needed = [row.boots_needed for row in deciding]
    enough = max((each for each in needed if each is not None), default=None)
    settle = f" {enough} boots per kernel would settle it." if enough and None not in needed else ""
    return f"{_not_known(base, candidate, why + more)}{settle}"


def _not_known(base: Kernel, candidate: Kernel, why: str) -> str:
    return f"Whether {candidate.release} may follow {base.release} is not known yet: {why}."
