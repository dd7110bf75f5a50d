# SPDX-License-Identifier: BSD-3-Clause
"""What two kernels' boots say of each other: tests, bounds and an effect, all by boot.

A boot is the replicate: trials of one boot share its memory layout, its timers, its luck, so they
are moved and counted together. Every test is exact under its assumptions, whatever the number of
boots; few boots only make it unable to tell.

scipy is imported where it is used, for that takes longer than all else that most commands do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

PERMUTATIONS = 20_000
"""Enumerated where there are no more, as with 7 boots a side (3432); else so many are drawn, with a
fixed seed, and the p value is then exact for what was drawn (Phipson and Smyth 2010)."""

SEED = 20261123

LEAST_BOOTS = 2
"""Of either kernel for a test to be made at all; one has nothing to vary."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Boot:
    """The scored trials of one boot.

    :ivar waits_ns: of each, until its answer or refusal, or its deadline where it had none.
    :ivar hung: whether it had none, because it hung or QEMU died. :ivar refused: whether it was
        refused.
    """

    waits_ns: tuple[int, ...]
    hung: tuple[bool, ...]
    refused: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.hung)


def more_hangs(base: Sequence[Boot], candidate: Sequence[Boot]) -> float:
    """P value: does the candidate hang or die more often?

    Exact one-sided permutation test of the mean share of hung trials a boot. Assumes that, were
    the kernels alike, any boot could have been of either. Source: Good, Permutation, Parametric,
    and Bootstrap Tests of Hypotheses (2005), chapter 3; with one trial a boot it is Fisher's
    exact test.
    """
    return _permuted([_share(each) for each in base], [_share(each) for each in candidate])


def more_refusals(base: Sequence[Boot], candidate: Sequence[Boot]) -> float:
    """P value: does the candidate refuse where the baseline does what it is asked?

    Exact one-sided permutation test of the mean share of trials a boot that did not return, as
    `more_hangs`. A refusal in the place of a hang is so no difference, and one in the place of an
    answer is.
    """
    return _permuted(
        [_unreturned(each) for each in base], [_unreturned(each) for each in candidate]
    )


def unrefused(boots: Sequence[Boot]) -> list[Boot]:
    """The boots without their refused trials, which waited for something else than the others.

    A boot that has no other trial is left out.
    """
    found = []
    for boot in boots:
        kept = [number for number, refused in enumerate(boot.refused) if not refused]
        if kept:
            found.append(
                Boot(
                    tuple(boot.waits_ns[each] for each in kept),
                    tuple(boot.hung[each] for each in kept),
                    (False,) * len(kept),
                )
            )
    return found


def slower(base: Sequence[Boot], candidate: Sequence[Boot], tolerance: float = 1.0) -> float:
    """P value: does the candidate take more than `tolerance` times as long?

    Exact one-sided permutation test of ranks: all trials are ranked together, those that had no
    answer tie at the earliest deadline of all, and boots are compared by their mean rank. The
    Wilcoxon-Mann-Whitney test with whole boots moved; same assumption and source as `more_hangs`.
    No answer is so never earlier than any, and one outlier no more than the last rank. The
    baseline's waits are taken times the tolerance, so what is within it is rejected no more often
    than what is alike. Trials that were refused are left out.
    """
    from scipy import stats

    base, candidate = unrefused(base), unrefused(candidate)
    deadline_ns = min(
        (
            wait
            for boot in (*base, *candidate)
            for wait, hung in zip(boot.waits_ns, boot.hung, strict=True)
            if hung
        ),
        default=math.inf,
    )
    waits = [
        min(wait * factor, deadline_ns)
        for boots, factor in ((base, tolerance), (candidate, 1.0))
        for boot in boots
        for wait in boot.waits_ns
    ]
    ranks = iter(stats.rankdata(waits))
    means = [fmean([float(next(ranks)) for _ in boot.waits_ns]) for boot in (*base, *candidate)]
    return _permuted(means[: len(base)], means[len(base) :])


def more_stalls(base: Sequence[Boot], candidate: Sequence[Boot], stall_ns: float) -> float:
    """P value: does the candidate keep people waiting for longer than `stall_ns` more often?

    Exact one-sided permutation test of the mean share of such answers a boot, as `more_hangs`. What
    medians and ranks do not see: an answer in four that takes a thousand times as long.
    """
    return _permuted(
        [fmean(_stalls(each, stall_ns)) for each in base],
        [fmean(_stalls(each, stall_ns)) for each in candidate],
    )


def even(base: Sequence[Boot], candidate: Sequence[Boot]) -> tuple[list[Boot], list[Boot]]:
    """Both, with no more trials a boot than is usual of the side that has fewer.

    Boots of eight trials are not what boots of two are: their shares and mean ranks vary less, so
    exchanging them would be wrong. The first trials of a boot stay; which those are says nothing
    of what they found.
    """
    usual = min(sorted(map(len, boots))[(len(boots) - 1) // 2] for boots in (base, candidate))
    ours, theirs = (
        [Boot(boot.waits_ns[:usual], boot.hung[:usual], boot.refused[:usual]) for boot in boots]
        for boots in (base, candidate)
    )
    return ours, theirs


def _permuted(base: Sequence[float], candidate: Sequence[float]) -> float:
    if min(len(base), len(candidate)) < LEAST_BOOTS or len({*base, *candidate}) == 1:
        return 1.0
    import numpy as np
    from scipy import stats

    def difference(ours: Any, theirs: Any, axis: int = -1) -> Any:
        return np.mean(ours, axis=axis) - np.mean(theirs, axis=axis)

    found = stats.permutation_test(
        (np.array(candidate), np.array(base)),
        difference,
        vectorized=True,
        n_resamples=PERMUTATIONS,
        alternative="greater",
        rng=np.random.default_rng(SEED),
    )
    return float(found.pvalue)


def _share(boot: Boot) -> float:
    return sum(boot.hung) / len(boot)


def _unreturned(boot: Boot) -> float:
    return (sum(boot.hung) + sum(boot.refused)) / len(boot)


def hanging_share(boots: Sequence[Boot]) -> float:
    """The share of hung trials, every boot counting the same."""
    return fmean(map(_share, boots))


def refused_share(boots: Sequence[Boot]) -> float:
    """The share of refused trials, every boot counting the same."""
    return fmean(sum(boot.refused) / len(boot) for boot in boots)


def unreturned_share(boots: Sequence[Boot]) -> float:
    """The share of trials that were refused, hung or died, every boot counting the same."""
    return fmean(map(_unreturned, boots))


def _stalls(boot: Boot, stall_ns: float) -> list[bool]:
    return [
        wait > stall_ns and not hung and not refused
        for wait, hung, refused in zip(boot.waits_ns, boot.hung, boot.refused, strict=True)
    ]


def usual_wait_ns(boots: Sequence[Boot]) -> float:
    """The median wait of all trials that were not refused; one without an answer counts as its
    deadline. Infinite where all were refused.
    """
    waits = [wait for boot in unrefused(boots) for wait in boot.waits_ns]
    return median(waits) if waits else math.inf


def hanging_boots(boots: Sequence[Boot]) -> int:
    """Boots with a trial that hung."""
    return sum(any(boot.hung) for boot in boots)


def stalling_boots(boots: Sequence[Boot], stall_ns: float) -> int:
    """Boots with an answer that took longer than that."""
    return sum(any(_stalls(boot, stall_ns)) for boot in boots)


def bound_above(hits: int, boots: int, confidence: float = CONFIDENCE) -> float:
    """The share of boots that the sample still allows, with that confidence, where `hits` of it do.

    The upper bound of Clopper and Pearson (1934). Assumes that boots are independent.
    """
    from scipy import stats

    interval = stats.binomtest(hits, boots, alternative="less").proportion_ci(
        confidence, method="exact"
    )
    return float(interval.high)


def bound_below(hits: int, boots: int, confidence: float = CONFIDENCE) -> float:
    """The share of boots that there is at the least; the other end of `bound_above`."""
    from scipy import stats

    interval = stats.binomtest(hits, boots, alternative="greater").proportion_ci(
        confidence, method="exact"
    )
    return float(interval.low)


def late_boots(boots: Sequence[Boot], limit_ns: float) -> int:
    """Boots with a trial that waited longer than that, be it for a refusal; one without an answer
    did.
    """
    return sum(
        any(hung or wait > limit_ns for wait, hung in zip(boot.waits_ns, boot.hung, strict=True))
        for boot in boots
    )


def beyond(boots: Sequence[Boot], limit_ns: float, allowed: float) -> float:
    """P value: do more than a share `allowed` of boots have a trial that waited longer than that?

    Exact one-sided binomial test.
    """
    from scipy import stats

    late = late_boots(boots, limit_ns)
    return float(stats.binomtest(late, len(boots), allowed, alternative="greater").pvalue)


@dataclass(frozen=True)
class Ratio:
    """How many times as long the candidate takes.

    :ivar low: of the interval, as is `high`; 0 and infinity where nothing bounds it.
    :ivar at_least: the estimate, or what it is no less than; `at_most` what it is no more than.
        They differ where trials had no answer.
    """

    low: float
    at_least: float
    at_most: float
    high: float


def ratio(
    base: Sequence[Boot], candidate: Sequence[Boot], confidence: float = CONFIDENCE
) -> Ratio | None:
    """The Hodges-Lehmann estimate of the ratio, with its exact interval.

    Of the median waits of all pairs of boots: the median ratio, and those between which the
    Mann-Whitney distribution leaves so much. Assumes that the kernels' waits differ by a factor and
    in nothing else. A median wait that is a deadline bounds a ratio from one side only. Source:
    Hollander, Wolfe and Chicken, Nonparametric Statistical Methods (2014), 4.2 and 4.3. Trials
    that were refused are left out; None where a side has no others.
    """
    base, candidate = unrefused(base), unrefused(candidate)
    if not base or not candidate:
        return None
    pairs = [_pair(ours, theirs) for ours in candidate for theirs in base]
    lows = sorted(low for low, _ in pairs)
    highs = sorted(high for _, high in pairs)
    outside = _outside(len(base), len(candidate), confidence)
    return Ratio(
        low=lows[outside - 1] if outside else 0.0,
        at_least=median(lows),
        at_most=median(highs),
        high=highs[-outside] if outside else math.inf,
    )


def _pair(candidate: Boot, base: Boot) -> tuple[float, float]:
    """Bounds of the ratio of two boots."""
    (ours, ours_hung), (theirs, theirs_hung) = _middle(candidate), _middle(base)
    found = ours / theirs
    return 0.0 if theirs_hung else found, math.inf if ours_hung else found


def _middle(boot: Boot) -> tuple[float, bool]:
    """The median wait, and whether it is only a bound."""
    waits = sorted(zip(boot.hung, boot.waits_ns, strict=True))
    low, high = waits[(len(waits) - 1) // 2], waits[len(waits) // 2]
    return (low[1] + high[1]) / 2, high[0]


def _outside(base: int, candidate: int, confidence: float) -> int:
    """How many of the ratios of all pairs lie outside of the interval, on either side.

    The largest number whose probability, on both sides together, is within what the confidence
    leaves; 0 where even the most extreme arrangement is likelier than that.
    """
    # The number of arrangements for each value of Mann and Whitney's U is a coefficient of the
    # Gaussian binomial: the product of (1 - q^(base + i)) / (1 - q^i).
    size = base * candidate
    counts = [1] + [0] * size
    for i in range(1, candidate + 1):
        for u in range(size, base + i - 1, -1):
            counts[u] -= counts[u - base - i]
        for u in range(i, size + 1):
            counts[u] += counts[u - i]
    total = math.comb(base + candidate, candidate)
    seen = 0
    for u in range(size // 2 + 1):
        seen += counts[u]
        if 2 * seen > (1 - confidence) * total:
            return u
    return size // 2


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for their number, in their order; Holm (1979).

    At most a share alpha of families without any true difference have one below alpha, whatever
    depends on what.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def boots_to_reject(family: int, alpha: float) -> int:
    """Boots of either side from which on a test of that family can reject at all."""
    boots = 2
    while family / math.comb(2 * boots, boots) >= alpha:
        boots += 1
    return boots


def boots_for_p(p_value: float, wanted: float, boots: int) -> float:
    """Boots with which a difference that now has that p value would have the wanted one.

    By the normal approximation: what a test sees grows with the root of the number of boots.
    Infinite where there is no difference in that direction.
    """
    from scipy import stats

    seen, needed = stats.norm.isf(p_value), stats.norm.isf(wanted)
    return float(boots * (needed / seen) ** 2) if seen > 0 else math.inf


def boots_to_bound(share: float, confidence: float = CONFIDENCE, hanging: float = 0.0) -> float:
    """Boots that bound the share of boots with a hang, where `hanging` of them have one.

    Infinite where that is no less.
    """
    if hanging >= share:
        return math.inf
    from scipy import stats

    boots = 1
    # The same bound as in `bound_above`.
    while (hits := math.ceil(hanging * boots)) == boots or (
        stats.beta.ppf(confidence, hits + 1, boots - hits) > share
    ):
        boots += 1
    return boots


def boots_to_estimate(confidence: float = CONFIDENCE) -> int:
    """Boots of either side from which on a ratio has an interval at all."""
    boots = 2
    while 2 / math.comb(2 * boots, boots) > 1 - confidence:
        boots += 1
    return boots
