# SPDX-License-Identifier: BSD-3-Clause
"""Whether one kernel may follow another: the comparison of their records, and its verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench_lib.record import FAILED, Host, Kernel, Key, Record
from bench_lib.units import NS_PER_S
from bench_lib.verdict import inference
from bench_lib.verdict.doubts import doubts, refuses_more
from bench_lib.verdict.inference import Ratio
from bench_lib.verdict.matching import host_name, matched
from bench_lib.verdict.terms import DEFAULT_TERMS, Terms
from bench_lib.verdict.tested import KernelCounts, Tested, tested


class Verdict(StrEnum):
    """Whether the candidate may be rolled out."""

    PASS = "pass"  # noqa: S105  # no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Comparison:
    """The trials of one key under both kernels.

    :ivar ratio: how many times as long the candidate takes; None where nothing was scored, or
        milliseconds mean nothing.
    :ivar hang_bound: the share of the candidate's boots with a hang that is still possible.
    :ivar p_hangs: adjusted for the whole family, as are `p_refusals`, `p_slower`, `p_stalls` and
        `p_late`. None where there is no such test.
    :ivar limit_ns: the absolute one that was applied.
    :ivar reasons: for the verdict, in words.
    :ivar boots_needed: of either kernel, which would settle it; None where it is settled or no
        number would.
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
    if verdict is Verdict.PASS and (doubt := _elsewhere(found.alone)):
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
    )


def _elsewhere(alone: Sequence[Record]) -> str | None:
    """What speaks against a pass on hosts that the baseline was not measured on."""
    bad = [each for each in alone if each.outcome in FAILED or each.damaged]
    if not bad:
        return None
    where = ", ".join(sorted({host_name(each.host) for each in bad}))
    return (
        f"{len(bad)} of its {len(alone)} trials on other hosts hung, died or damaged memory "
        f"({where}), "
        "and the baseline was not measured there"
    )


def _judged(row: Tested, terms: Terms, family: int) -> Comparison:
    ratio = None
    bound = None
    if row.base_boots and row.candidate_boots:
        hits = inference.hanging_boots(row.candidate_boots)
        bound = inference.bound_above(hits, row.candidate.boots, terms.confidence)
        if not row.emulated:
            ratio = inference.ratio(row.base_boots, row.candidate_boots, terms.confidence)
    verdict, reasons, needed = _verdict(row, terms, family, ratio, bound)
    return Comparison(
        key=row.key,
        base=row.base,
        candidate=row.candidate,
        ratio=ratio,
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
    )


def _verdict(
    row: Tested, terms: Terms, family: int, ratio: Ratio | None, bound: float | None
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
    found = doubts(row, terms, family, ratio, bound)
    if not found:
        return Verdict.PASS, (), None
    needed = max(each.boots for each in found)
    boots = min(row.base.boots, row.candidate.boots)
    enough = math.ceil(needed) if boots < needed < math.inf else None
    return Verdict.INCONCLUSIVE, tuple(each.text for each in found), enough


def _failures(row: Tested, terms: Terms) -> tuple[str, ...]:
    found = []
    if row.p["hangs"] < terms.alpha_a_look:
        found.append(f"hangs{' or dies' if row.candidate.died else ''} more often")
    if row.p.get("refusals", 1.0) < terms.alpha_a_look and refuses_more(row):
        found.append("refuses more often")
    if row.p.get("late", 1.0) < terms.alpha_a_look:
        assert row.limit_ns is not None
        found.append(f"has no answer within {row.limit_ns / NS_PER_S:g} s")
    if row.p.get("slower", 1.0) < terms.alpha_a_look:
        found.append(f"takes more than {terms.tolerance:g} times as long")
    if row.p.get("stalls", 1.0) < terms.alpha_a_look:
        found.append(f"takes more than {terms.stall:g} times the usual more often")
    return tuple(found)


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
    why = f"{first.key.name}: {'; '.join(first.reasons)}"
    more = f" (and {len(deciding) - 1} more)" if len(deciding) > 1 else ""
    if verdict is Verdict.FAIL:
        return f"{candidate.release} must not follow {base.release}: {why}{more}."
    needed = [row.boots_needed for row in deciding]
    enough = max((each for each in needed if each is not None), default=None)
    settle = f" {enough} boots of each would settle it." if enough and None not in needed else ""
    return f"{_not_known(base, candidate, why + more)}{settle}"


def _not_known(base: Kernel, candidate: Kernel, why: str) -> str:
    return f"Whether {candidate.release} may follow {base.release} is not known yet: {why}."
