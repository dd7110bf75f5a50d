# SPDX-License-Identifier: BSD-3-Clause
"""A row of the gate: the comparison of two kernels by the trials of one key, and its verdict."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from bench_lib.record import Key
from bench_lib.verdict.effect import Ratio
from bench_lib.verdict.mixes import Mixes
from bench_lib.verdict.tested import KernelCounts


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


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict over several: each of them can keep the candidate from passing."""
    found = set(verdicts)
    for each in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        if each in found:
            return each
    return Verdict.PASS


def boots_needed(rows: Iterable[Comparison]) -> int | None:
    """Return the boots per kernel that would settle all rows; None if no number is known to."""
    needed = [each.boots_needed for each in rows if each.verdict is Verdict.INCONCLUSIVE]
    known = [each for each in needed if each is not None]
    return max(known) if known and len(known) == len(needed) else None
