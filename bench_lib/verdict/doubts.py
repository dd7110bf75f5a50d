# SPDX-License-Identifier: BSD-3-Clause
"""What keeps a candidate that has not failed from a pass, and how many boots would settle it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench_lib.units import NS_PER_S
from bench_lib.verdict import inference
from bench_lib.verdict.inference import Ratio
from bench_lib.verdict.terms import Terms
from bench_lib.verdict.tested import Tested


@dataclass(frozen=True)
class Doubt:
    """Why there is no pass. :ivar boots: of either kernel, which would remove it; or infinity."""

    text: str
    boots: float


def _all_hang(row: Tested) -> bool:
    """Whether all trials of either kernel hung or died: nothing became worse, nor could it."""
    return all(side.hung == side.trials - side.lost for side in (row.base, row.candidate))


def doubts(
    row: Tested, terms: Terms, family: int, ratio: Ratio | None, bound: float
) -> list[Doubt]:
    """All of a row that no test has rejected.

    :param family: tests of the whole gate.
    :param ratio: None where milliseconds mean nothing.
    :param bound: the share of the candidate's boots with a hang that is still possible.
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
        if min(row.base.boots, row.candidate.boots) < least:
            return [Doubt("too few boots, though all of them hang", least)]
        return []
    ours, theirs = (
        inference.hanging_share(boots) for boots in (row.candidate_boots, row.base_boots)
    )
    if ours > theirs:
        text = f"{ours:.0%} of its trials hang, and {theirs:.0%} of the baseline's"
        now = inference.more_hangs(row.even_base, row.even_candidate)
        return [Doubt(text, _boots_to_tell(row, terms, family, now))]
    before = inference.hanging_boots(row.even_base)
    if bound <= max(terms.hanging, inference.bound_below(before, row.base.boots, terms.confidence)):
        return []
    text = f"up to {bound:.0%} of boots may still hang"
    hanging = inference.hanging_boots(row.candidate_boots) / row.candidate.boots
    return [Doubt(text, inference.boots_to_bound(terms.hanging, terms.confidence, hanging))]


def refuses_more(row: Tested) -> bool:
    """Whether the candidate refuses in the place of answers of the baseline, in this sample.

    If it only refuses in the place of hangs, it does not.
    """
    ours, theirs = row.candidate_boots, row.base_boots
    return inference.unreturned_share(ours) > inference.unreturned_share(
        theirs
    ) and inference.refused_share(ours) > inference.refused_share(theirs)


def _of_refusals(row: Tested, terms: Terms, family: int) -> list[Doubt]:
    if not refuses_more(row):
        return []
    ours, theirs = (
        inference.refused_share(boots) for boots in (row.candidate_boots, row.base_boots)
    )
    text = f"{ours:.0%} of its trials are refused, and {theirs:.0%} of the baseline's"
    now = inference.more_refusals(row.even_base, row.even_candidate)
    return [Doubt(text, _boots_to_tell(row, terms, family, now))]


def _of_stalls(row: Tested, terms: Terms) -> list[Doubt]:
    if row.stall_ns is None:
        return []
    ours = inference.stalling_boots(row.candidate_boots, row.stall_ns)
    theirs = inference.stalling_boots(row.even_base, row.stall_ns)
    no_more = ours / row.candidate.boots <= theirs / row.base.boots
    if (
        no_more
        or inference.bound_above(ours, row.candidate.boots, terms.confidence) <= terms.hanging
    ):
        return []
    text = (
        f"{ours} of {row.candidate.boots} boots had an answer after more than {terms.stall:g} "
        f"times the usual, and {theirs} of {row.base.boots} of the baseline"
    )
    enough = inference.boots_to_bound(terms.hanging, terms.confidence, ours / row.candidate.boots)
    return [Doubt(text, enough)]


def _boots_to_tell(row: Tested, terms: Terms, family: int, now: float) -> float:
    """Boots with which the same difference would be rejected, as far as that can be foreseen.

    :param now: its p value with the boots that there are.
    """
    boots = min(row.base.boots, row.candidate.boots)
    least = inference.boots_to_reject(family, terms.alpha_a_look)
    return max(least, inference.boots_for_p(now, terms.alpha_a_look / family, boots))


def _of_lateness(row: Tested, terms: Terms) -> list[Doubt]:
    if row.limit_ns is None or _all_hang(row):
        return []
    late = inference.late_boots(row.candidate_boots, row.limit_ns)
    # As many as would show one at the least, if there were more than are allowed.
    enough = inference.boots_to_bound(terms.late, terms.confidence)
    boots = row.candidate.boots
    if not late or (late <= terms.late * boots and boots >= enough):
        return []
    text = (
        f"{late} of {boots} boots had no answer within {row.limit_ns / NS_PER_S:g} s, too few to "
        "tell chance from rule"
    )
    return [Doubt(text, enough)]


def _of_time(row: Tested, terms: Terms, ratio: Ratio | None) -> list[Doubt]:
    if ratio is None or ratio.high <= terms.tolerance or _all_hang(row):
        return []
    longest = "any number of" if math.isinf(ratio.high) else f"{ratio.high:.2f}"
    return [Doubt(f"it may take up to {longest} times as long", _boots_for(ratio, terms, row))]


def _boots_for(ratio: Ratio, terms: Terms, row: Tested) -> float:
    """Boots of either kernel that would bring the interval to one side of the tolerance.

    By its width, which shrinks with the root of their number.
    """
    boots = min(row.base.boots, row.candidate.boots)
    least = inference.boots_to_estimate(terms.confidence)
    if boots < least:
        return least
    away = abs(math.log(terms.tolerance) - math.log(ratio.at_least)) if ratio.at_least else 0.0
    if math.isinf(ratio.high) or not away:
        return math.inf
    half = math.log(ratio.high) - math.log(ratio.at_least)
    return max(boots + 1.0, boots * (half / away) ** 2)
