# SPDX-License-Identifier: BSD-3-Clause
"""The trials of a kernel by boot, and the counts, shares and waits that they show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median


@dataclass(frozen=True)
class Boot:
    """The scored trials of one boot.

    :ivar waits_ns: of each trial, the time until its answer or refusal; the deadline where there
        was none.
    :ivar hung: of each trial, whether it had no answer, because it hung or QEMU died.
    :ivar refused: of each trial, whether the request was refused.
    """

    waits_ns: tuple[int, ...]
    hung: tuple[bool, ...]
    refused: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.hung)

    @property
    def hung_share(self) -> float:
        """The share of trials that hung or died."""
        return sum(self.hung) / len(self)

    @property
    def refused_share(self) -> float:
        """The share of trials that were refused."""
        return sum(self.refused) / len(self)

    @property
    def unreturned_share(self) -> float:
        """The share of trials that hung, died or were refused."""
        return (sum(self.hung) + sum(self.refused)) / len(self)

    def stalls(self, stall_ns: float) -> list[bool]:
        """Return for each trial whether it returned, but only after `stall_ns`."""
        return [
            wait > stall_ns and not hung and not refused
            for wait, hung, refused in zip(self.waits_ns, self.hung, self.refused, strict=True)
        ]


def unrefused(boots: Sequence[Boot]) -> list[Boot]:
    """Return the boots without their refused trials.

    The wait for a refusal cannot be compared with the wait for an answer. A boot
    whose trials were all refused is left out.
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


def even(base: Sequence[Boot], candidate: Sequence[Boot]) -> tuple[list[Boot], list[Boot]]:
    """Cut the boots of both kernels to the same number of trials, or fewer.

    The number is the median of the kernel that has fewer trials per boot. The shares and mean ranks
    of boots with eight trials vary less than those of boots with two, so a permutation test must
    not exchange them. The first trials of each boot stay, because their place does not depend on
    their results.
    """
    usual = min(sorted(map(len, boots))[(len(boots) - 1) // 2] for boots in (base, candidate))
    ours, theirs = (
        [Boot(boot.waits_ns[:usual], boot.hung[:usual], boot.refused[:usual]) for boot in boots]
        for boots in (base, candidate)
    )
    return ours, theirs


def hanging_share(boots: Sequence[Boot]) -> float:
    """Return the share of trials that hung or died. Every boot has the same weight."""
    return fmean(boot.hung_share for boot in boots)


def refused_share(boots: Sequence[Boot]) -> float:
    """Return the share of refused trials. Every boot has the same weight."""
    return fmean(boot.refused_share for boot in boots)


def unreturned_share(boots: Sequence[Boot]) -> float:
    """Return the share of trials that did not return. Every boot has the same weight."""
    return fmean(boot.unreturned_share for boot in boots)


def usual_wait_ns(boots: Sequence[Boot]) -> float:
    """Return the median wait of all trials that were not refused; infinite if all were.

    A trial without an answer counts with its deadline.
    """
    waits = [wait for boot in unrefused(boots) for wait in boot.waits_ns]
    return median(waits) if waits else math.inf


def hanging_boots(boots: Sequence[Boot]) -> int:
    """Return the number of boots in which a trial hung or died."""
    return sum(any(boot.hung) for boot in boots)


def stalling_boots(boots: Sequence[Boot], stall_ns: float) -> int:
    """Return the number of boots in which a trial returned, but only after `stall_ns`."""
    return sum(any(boot.stalls(stall_ns)) for boot in boots)


def late_boots(boots: Sequence[Boot], limit_ns: float) -> int:
    """Return the number of boots in which a trial waited longer than `limit_ns`.

    The wait may end with a refusal. A trial without an answer waited longer than any limit.
    """
    return sum(
        any(hung or wait > limit_ns for wait, hung in zip(boot.waits_ns, boot.hung, strict=True))
        for boot in boots
    )
