# SPDX-License-Identifier: BSD-3-Clause
"""Why a candidate that has not failed does not pass yet, and how many boots would settle it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench_lib.units import NS_PER_S
from bench_lib.verdict import by_boot, inference
from bench_lib.verdict.effect import Ratio
from bench_lib.verdict.terms import Terms
from bench_lib.verdict.tested import Tested, Timed


@dataclass(frozen=True)
class Doubt:
    """A reason why the candidate does not pass.

    :ivar text: the reason, in words.
    :ivar boots: boots per kernel that would remove it; infinite if no number is known to.
    """

    text: str
    boots: float


def _all_hang(row: Tested) -> bool:
    """Whether all measured trials of both kernels hung or died, so that nothing can be worse."""
    return all(each.hung == each.trials - each.lost for each in (row.base, row.candidate))


def doubts(
    row: Tested, terms: Terms, family: int, ratio: Ratio | None, bound: float
) -> list[Doubt]:
    """Return all doubts about a row that no test has rejected.

    :param family: the number of tests of the whole gate.
    :param ratio: None if times are not compared.
    :param bound: the largest share of the candidate's boots with a hang that is not ruled out.
    """
    return [
        *_of_hangs(row, terms, family, bound),
        *_of_refusals(row, terms, family),
        *_of_lateness(row, terms),
        *_of_time(row, terms, ratio),
        *_of_stalls(row, terms),
    ]


def _of_hangs(row: Tested, terms: Terms, family: int, bound: float) -> list[Doubt]:
    if _all_hang(row):
        least = inference.boots_to_estimate(terms.confidence)
        if _fewer(row) < least:
            return [Doubt("too few boots, though all trials of both kernels hang", least)]
        return []
    ours, theirs = map(by_boot.hanging_share, (row.candidate_boots, row.base_boots))
    if ours > theirs:
        text = f"{ours:.0%} of its trials hang, and {theirs:.0%} of the baseline's"
        p_value = inference.more_hangs(row.even_base, row.even_candidate)
        return [Doubt(text, _boots_to_reject(row, terms, family, p_value))]
    before = by_boot.hanging_boots(row.even_base)
    if bound <= max(terms.hanging, inference.bound_below(before, row.base.boots, terms.confidence)):
        return []
    text = f"up to {bound:.0%} of boots may still hang"
    hanging = by_boot.hanging_boots(row.candidate_boots) / row.candidate.boots
    return [Doubt(text, inference.boots_to_bound(terms.hanging, terms.confidence, hanging))]


def refuses_more(row: Tested) -> bool:
    """Whether, in this sample, the candidate refuses requests that the baseline answers.

    Refusals that only replace hangs do not count.
    """
    ours, theirs = row.candidate_boots, row.base_boots
    return by_boot.unreturned_share(ours) > by_boot.unreturned_share(
        theirs
    ) and by_boot.refused_share(ours) > by_boot.refused_share(theirs)


def _of_refusals(row: Tested, terms: Terms, family: int) -> list[Doubt]:
    if not refuses_more(row):
        return []
    ours, theirs = map(by_boot.refused_share, (row.candidate_boots, row.base_boots))
    text = f"{ours:.0%} of its trials are refused, and {theirs:.0%} of the baseline's"
    p_value = inference.more_refusals(row.even_base, row.even_candidate)
    return [Doubt(text, _boots_to_reject(row, terms, family, p_value))]


def _of_stalls(row: Tested, terms: Terms) -> list[Doubt]:
    timed = row.timed
    if timed is None:
        return []
    ours = by_boot.stalling_boots(timed.candidate, timed.stall_ns)
    theirs = by_boot.stalling_boots(timed.even_base, timed.stall_ns)
    there, before = len(timed.candidate), len(timed.base)
    no_more = ours / there <= theirs / before
    if no_more or inference.bound_above(ours, there, terms.confidence) <= terms.hanging:
        return []
    text = (
        f"{ours} of {there} boots had an answer after more than {terms.stall:g} "
        f"times the usual wait, and {theirs} of {before} boots of the baseline"
    )
    enough = inference.boots_to_bound(terms.hanging, terms.confidence, ours / there)
    return [Doubt(text, enough * _untimed(row, timed))]


def _boots_to_reject(row: Tested, terms: Terms, family: int, p_value: float) -> float:
    """Estimate the boots per kernel with which a test would reject the same difference.

    :param p_value: the p value of the difference with the present boots.
    """
    least = inference.boots_to_reject(family, terms.alpha_per_look)
    return max(least, inference.boots_for_p(p_value, terms.alpha_per_look / family, _fewer(row)))


def _fewer(row: Tested) -> int:
    """Return the number of boots of the kernel that has fewer."""
    return min(row.base.boots, row.candidate.boots)


def _of_lateness(row: Tested, terms: Terms) -> list[Doubt]:
    if row.limit_ns is None or _all_hang(row):
        return []
    late = by_boot.late_boots(row.candidate_boots, row.limit_ns)
    # If more than the allowed share of boots were late, this many boots would show a late one, with
    # that confidence.
    enough = inference.boots_to_bound(terms.late, terms.confidence)
    there = row.candidate.boots
    if not late or (late <= terms.late * there and there >= enough):
        return []
    text = (
        f"{late} of {there} boots had no answer within {row.limit_ns / NS_PER_S:g} s, too few "
        "boots to decide whether that is chance"
    )
    return [Doubt(text, enough)]


def _of_time(row: Tested, terms: Terms, ratio: Ratio | None) -> list[Doubt]:
    timed = row.timed
    if ratio is None or timed is None or ratio.high <= terms.tolerance or _all_hang(row):
        return []
    longest = "any number of" if math.isinf(ratio.high) else f"{ratio.high:.2f}"
    enough = _boots_for(ratio, terms, _fewer_timed(timed)) * _untimed(row, timed)
    return [Doubt(f"it may take up to {longest} times as long", enough)]


def _fewer_timed(timed: Timed) -> int:
    """Return the number of boots with compared latencies of the kernel that has fewer."""
    return min(len(timed.base), len(timed.candidate))


def _untimed(row: Tested, timed: Timed) -> float:
    """Estimate how many boots it takes to get one with latencies that can be compared."""
    return _fewer(row) / _fewer_timed(timed)


def _boots_for(ratio: Ratio, terms: Terms, there: int) -> float:
    """Estimate the boots per kernel with which the interval no longer contains the tolerance.

    The width of the interval shrinks with the square root of their number.

    :param there: the number of boots of the kernel that has fewer.
    """
    least = inference.boots_to_estimate(terms.confidence)
    if there < least:
        return least
    away = abs(math.log(terms.tolerance) - math.log(ratio.at_least)) if ratio.at_least else 0.0
    if math.isinf(ratio.high) or not away:
        return math.inf
    half = math.log(ratio.high) - math.log(ratio.at_least)
    return max(there + 1.0, there * (half / away) ** 2)
