# SPDX-License-Identifier: BSD-3-Clause
"""What is asked of a candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench_lib.record import RequestName
from bench_lib.units import NS_PER_S


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
    limits_ns: Mapping[RequestName, int] = field(
        default_factory=lambda: {RequestName.STOP: NS_PER_S}
    )
    late: float = 0.05
    hanging: float = 0.5
    lost: float = 0.1
    alpha: float = 0.05
    looks: int = 1

    @property
    def alpha_a_look(self) -> float:
        return self.alpha / self.looks

    @property
    def confidence(self) -> float:
        """Of intervals and bounds."""
        return 1 - self.alpha_a_look


DEFAULT_TERMS = Terms()
