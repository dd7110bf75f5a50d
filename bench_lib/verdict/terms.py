# SPDX-License-Identifier: BSD-3-Clause
"""The terms on which a candidate passes or fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench_lib.record import RequestName
from bench_lib.units import NS_PER_S


@dataclass(frozen=True)
class Terms:
    """The terms on which a candidate passes or fails.

    :ivar tolerance: how many times as long the candidate may take.
    :ivar stall: an answer that takes more than this many times the baseline's median is a stall.
    :ivar limits_ns: the longest that an operator should wait for a request, whatever the baseline.
    :ivar late: the share of boots in which an operator may wait longer nevertheless.
    :ivar hanging: the share of boots with a hang, or with a stall, that has to be ruled out.
    :ivar lost: if more than this share of a kernel's trials measured nothing, the verdict is
        inconclusive.
    :ivar alpha: how often a candidate that is not worse may fail. Intervals have the confidence one
        minus alpha.
    :ivar looks: how often the gate looks at the records, with more boots each time. Each look
        spends its share of alpha (Bonferroni), however the looks depend on each other.
    """

    tolerance: float = 1.25
    stall: float = 10.0
    limits_ns: Mapping[RequestName, int] = field(
        default_factory=lambda: {RequestName.STOP: NS_PER_S}
    )
    late: float = 0.05
    hanging: float = 0.5
    lost: float = 0.1
    alpha: float = 0.05
    looks: int = 1

    @property
    def alpha_per_look(self) -> float:
        """The share of alpha that one look may spend."""
        return self.alpha / self.looks

    @property
    def confidence(self) -> float:
        """The confidence of intervals and bounds."""
        return 1 - self.alpha_per_look


DEFAULT_TERMS = Terms()
