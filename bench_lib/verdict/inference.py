# SPDX-License-Identifier: BSD-3-Clause
"""Tests and bounds that compare two kernels by their boots, and how many boots they need.

A boot is the replicate: its trials share its memory layout, its timers and its luck, so they are
permuted and counted together. Every test is exact under its assumptions, whatever the number of
boots; with too few boots it cannot reject.

The functions import scipy themselves, because that takes longer than everything else that most
commands do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from bench_lib.verdict.by_boot import Boot, late_boots, unrefused

PERMUTATIONS = 20_000
"""The most permutations that a test makes. If there are no more, such as the 3432 of 7 boots per
kernel, the test takes all of them. Otherwise it draws this many with a fixed seed, and its p value
is exact for what was drawn (Phipson and Smyth 2010)."""

SEED = 20261123

LEAST_BOOTS = 2
"""Boots of either kernel without which there is no test: a single boot shows no variation."""

CONFIDENCE = 0.95


def more_hangs(base: Sequence[Boot], candidate: Sequence[Boot]) -> float:
    """P value: does the candidate hang or die more often?

    Exact one-sided permutation test of the mean share of hung trials per boot. It assumes that any
    boot could have been of either kernel if the kernels were alike. With one trial per boot it is
    Fisher's exact test. Source: Good, Permutation, Parametric, and Bootstrap Tests of Hypotheses
    (2005), chapter 3.
    """
    return _permuted([boot.hung_share for boot in base], [boot.hung_share for boot in candidate])


def more_refusals(base: Sequence[Boot], candidate: Sequence[Boot]) -> float:
    """P value: does the candidate refuse where the baseline answers?

    The same test as `more_hangs`, of the mean share of trials per boot that did not return. So a
    refusal instead of a hang makes no difference, and a refusal instead of an answer does.
    """
    return _permuted(
        [boot.unreturned_share for boot in base], [boot.unreturned_share for boot in candidate]
    )


def slower(base: Sequence[Boot], candidate: Sequence[Boot], tolerance: float = 1.0) -> float:
    """P value: does the candidate take more than `tolerance` times as long?

    Exact one-sided permutation test of ranks: all trials are ranked together, trials without an
    answer tie at the earliest of their deadlines, and boots are compared by their mean rank. This
    is the Wilcoxon-Mann-Whitney test with whole boots permuted; assumption and source are those of
    `more_hangs`. So a trial without an answer never ranks before one with an answer, and an outlier
    counts for no more than the last rank. The baseline's waits are multiplied by the tolerance, so
    a candidate within it is rejected no more often than one that is alike. Refused trials are left
    out.
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
    """P value: does the candidate answer after more than `stall_ns` more often?

    The same test as `more_hangs`, of the mean share of such answers per boot. Medians and ranks do
    not show such stalls: for example one answer in four that takes a thousand times as long.
    """
    return _permuted(
        [fmean(boot.stalls(stall_ns)) for boot in base],
        [fmean(boot.stalls(stall_ns)) for boot in candidate],
    )


def beyond(boots: Sequence[Boot], limit_ns: float, allowed: float) -> float:
    """P value: do more than a share `allowed` of boots have a trial that waited beyond `limit_ns`?

    Exact one-sided binomial test.
    """
    from scipy import stats

    late = late_boots(boots, limit_ns)
    return float(stats.binomtest(late, len(boots), allowed, alternative="greater").pvalue)


def _permuted(base: Sequence[float], candidate: Sequence[float]) -> float:
    """Return the p value of a larger mean of the candidate."""
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


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number, and keep their order; Holm (1979).

    If there is no true difference in a family of tests, the probability that an adjusted p value
    is below alpha is at most alpha, however the tests depend on each other.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def bound_above(hits: int, boots: int, confidence: float = CONFIDENCE) -> float:
    """Return the largest share of boots with a hit that the sample does not rule out.

    The upper bound of Clopper and Pearson (1934). It assumes that boots are independent.

    :param hits: the number of boots with a hit in the sample.
    """
    from scipy import stats

    interval = stats.binomtest(hits, boots, alternative="less").proportion_ci(
        confidence, method="exact"
    )
    return float(interval.high)


def bound_below(hits: int, boots: int, confidence: float = CONFIDENCE) -> float:
    """Return the smallest share of boots with a hit that the sample does not rule out.

    The lower bound of Clopper and Pearson (1934); see `bound_above`.
    """
    from scipy import stats

    interval = stats.binomtest(hits, boots, alternative="greater").proportion_ci(
        confidence, method="exact"
    )
    return float(interval.low)


def boots_to_reject(family: int, alpha: float) -> int:
    """Return the smallest number of boots per kernel with which a test can reject at all.

    :param family: the number of tests that are adjusted together.
    """
    boots = 2
    while family / math.comb(2 * boots, boots) >= alpha:
        boots += 1
    return boots


def boots_for_p(p_value: float, wanted: float, boots: int) -> float:
    """Estimate the boots per kernel with which a difference would have the wanted p value.

    This is the normal approximation: the deviation that a test sees grows with the square root of
    the number of boots. The result is infinite if the sample shows no difference in that direction.

    :param p_value: the p value of the difference in the sample.
    :param wanted: the p value to reach.
    :param boots: the boots per kernel in the sample.
    """
    from scipy import stats

    seen, needed = stats.norm.isf(p_value), stats.norm.isf(wanted)
    return float(boots * (needed / seen) ** 2) if seen > 0 else math.inf


def boots_to_bound(share: float, confidence: float = CONFIDENCE, hanging: float = 0.0) -> float:
    """Return the smallest number of boots with which `bound_above` is at most `share`.

    :param hanging: the share of boots with a hang. If it is not below `share`, the result is
        infinite.
    """
    if hanging >= share:
        return math.inf
    from scipy import stats

    boots = 1
    # This is the same bound as that of `bound_above`.
    while (hits := math.ceil(hanging * boots)) == boots or (
        stats.beta.ppf(confidence, hits + 1, boots - hits) > share
    ):
        boots += 1
    return boots


def boots_to_estimate(confidence: float = CONFIDENCE) -> int:
    """Return the smallest number of boots per kernel that bounds the interval of a ratio."""
    boots = 2
    while 2 / math.comb(2 * boots, boots) > 1 - confidence:
        boots += 1
    return boots
