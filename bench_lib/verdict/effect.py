# SPDX-License-Identifier: BSD-3-Clause
"""How many times as long the candidate takes: an estimate and its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench_lib.verdict.by_boot import Boot, unrefused
from bench_lib.verdict.inference import CONFIDENCE


@dataclass(frozen=True)
class Ratio:
    """How many times as long the candidate takes.

    The estimate is one number, `at_least` and `at_most` alike, unless trials without an answer
    leave it open.

    :ivar low: lower end of the interval; 0 if nothing bounds it.
    :ivar at_least: lower bound of the estimate.
    :ivar at_most: upper bound of the estimate.
    :ivar high: upper end of the interval; infinite if nothing bounds it.
    """

    low: float
    at_least: float
    at_most: float
    high: float


def ratio(
    base: Sequence[Boot], candidate: Sequence[Boot], confidence: float = CONFIDENCE
) -> Ratio | None:
    """Estimate the ratio after Hodges and Lehmann, with its exact interval.

    Each pair of boots, one of either kernel, has a ratio of its median waits. The estimate is the
    median of these ratios. The interval is the part of them that the Mann-Whitney distribution
    gives for the confidence. The method assumes that the waits of the kernels differ by a factor
    and in nothing else. If a median wait is a deadline, it bounds a ratio from one side only.
    Refused trials are left out. Source: Hollander, Wolfe and Chicken, Nonparametric Statistical
    Methods (2014), 4.2 and 4.3.

    :return: the ratio, or None if all trials of a kernel were refused.
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
    """Return the lower and the upper bound of the ratio of two boots."""
    (ours, ours_hung), (theirs, theirs_hung) = _median_wait(candidate), _median_wait(base)
    found = ours / theirs
    return 0.0 if theirs_hung else found, math.inf if ours_hung else found


def _median_wait(boot: Boot) -> tuple[float, bool]:
    """Return the median wait, and whether it is only a lower bound."""
    waits = sorted(zip(boot.hung, boot.waits_ns, strict=True))
    low, high = waits[(len(waits) - 1) // 2], waits[len(waits) // 2]
    return (low[1] + high[1]) / 2, high[0]


def _outside(base: int, candidate: int, confidence: float) -> int:
    """Count the ratios of pairs that lie outside of the interval on either side.

    It is the largest number whose probability, on both sides together, is at most one minus the
    confidence. It is 0 if even the most extreme arrangement is more likely than that.
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
