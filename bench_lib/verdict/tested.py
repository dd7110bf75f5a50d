# SPDX-License-Identifier: BSD-3-Clause
"""The records of two kernels by boot, and the results of the tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench_lib.errors import CannotCompare
from bench_lib.record import FAILED, Key, Outcome, Record
from bench_lib.units import NS_PER_S
from bench_lib.verdict import inference
from bench_lib.verdict.by_boot import Boot, even, usual_wait_ns
from bench_lib.verdict.matching import Match, scored
from bench_lib.verdict.mixes import Mixes, differing, with_mix
from bench_lib.verdict.summary import Wait, median_wait
from bench_lib.verdict.terms import Terms

EMULATED = 10
"""The factor of limits under emulation, where everything takes about ten times as long."""


@dataclass(frozen=True)
class KernelCounts:
    """The counts of one kernel in a match.

    :ivar boots: boots with a trial that measured something.
    :ivar hung: trials without an answer, including those whose QEMU died.
    :ivar died: trials whose QEMU died.
    :ivar refused: trials whose answer was an error.
    :ivar lost: trials that measured nothing.
    :ivar damaged: trials whose guest found its memory damaged.
    :ivar median: median wait of the trials that were neither lost nor refused.
    """

    boots: int
    trials: int
    hung: int
    died: int
    refused: int
    lost: int
    damaged: int
    median: Wait | None


@dataclass(frozen=True)
class Timed:
    """The trials whose latencies are compared, by boot.

    :ivar base: boots of the baseline.
    :ivar candidate: boots of the candidate.
    :ivar even_base: boots of the baseline with as many trials as those of the candidate; see
        `by_boot.even`.
    :ivar stall_ns: an answer after more than this is a stall.
    """

    base: list[Boot]
    candidate: list[Boot]
    even_base: list[Boot]
    stall_ns: float


@dataclass(frozen=True)
class Tested:
    """A match by boot, and the p values of its tests.

    :ivar even_base: boots of the baseline with as many trials as those of the candidate; see
        `by_boot.even`.
    :ivar even_candidate: boots of the candidate with as many trials as those of the baseline.
    :ivar limit_ns: the absolute limit of the request; None if there is none.
    :ivar timed: the trials whose latencies are compared; None if there are none.
    :ivar mixes: the paths on which vCPUs were stuck, if that differed between trials.
    :ivar p: the p value of each test, by its name.
    """

    key: Key
    base: KernelCounts
    candidate: KernelCounts
    base_boots: list[Boot]
    candidate_boots: list[Boot]
    even_base: list[Boot]
    even_candidate: list[Boot]
    limit_ns: int | None
    timed: Timed | None
    mixes: Mixes | None
    p: dict[str, float]

    @property
    def emulated(self) -> bool:
        """Whether the trials ran under emulation, so that their times are not compared."""
        return _emulated(self.key)


def _emulated(key: Key) -> bool:
    return key.host.accelerator == "tcg"


def tested(match: Match, terms: Terms) -> Tested:
    """Sort a match by boot and test it. The p values are not adjusted yet.

    :raise CannotCompare: the limit of the request is beyond the deadline.
    """
    # Trials with the earliest deadline show nothing beyond it. So what other trials show beyond it
    # must not count either.
    deadline_ns = min(record.deadline_ns for record in (*match.base, *match.candidate))
    base, candidate = (_boots(records, deadline_ns) for records in (match.base, match.candidate))
    limit_ns = _limit(match.key, deadline_ns, terms)
    mixes = differing(match)
    timed = None
    p: dict[str, float] = {}
    alike = base, candidate
    if base and candidate:
        alike = even(base, candidate)
        p["hangs"] = inference.more_hangs(*alike)
        # This test is made only if there is a refusal under either kernel. That condition does not
        # depend on which kernel a boot was of, so the test stays exact.
        if any(any(boot.refused) for boots in alike for boot in boots):
            p["refusals"] = inference.more_refusals(*alike)
        if not _emulated(match.key):
            timed = _timed(match, mixes, deadline_ns, terms, p)
    if candidate and limit_ns is not None:
        p["late"] = inference.beyond(candidate, limit_ns, terms.late)
    counts = _counts(match.base, base), _counts(match.candidate, candidate)
    return Tested(match.key, *counts, base, candidate, *alike, limit_ns, timed, mixes, p)


def _timed(
    match: Match, mixes: Mixes | None, deadline_ns: int, terms: Terms, p: dict[str, float]
) -> Timed | None:
    """Test the latencies of the trials that may be compared, and return the boots of these trials.

    If several mixes are common to both kernels, the trials of each are tested apart. Those of the
    most frequent one are returned, because a mix that is rare may never have enough boots for a
    pass; if another mix is what rejects the candidate, those of that mix.

    :param p: receives the p values.
    """
    groups: list[tuple[Sequence[Record], Sequence[Record]]] = [(match.base, match.candidate)]
    if mixes is not None:
        groups = [
            (with_mix(match.base, mix), with_mix(match.candidate, mix)) for mix in mixes.common
        ]
    found, slower, stalls = [], [], []
    for group in groups:
        base, candidate = (_boots(records, deadline_ns) for records in group)
        stall_ns = terms.stall * usual_wait_ns(base)
        alike = even(base, candidate)
        slower.append(inference.slower(*alike, terms.tolerance))
        stalls.append(inference.more_stalls(*alike, stall_ns))
        found.append(Timed(base, candidate, alike[0], stall_ns))
    if not found:
        return None
    # One of several tests rejects by chance more often than a single one (Bonferroni).
    p["slower"], p["stalls"] = (min(1.0, len(found) * min(each)) for each in (slower, stalls))
    least = [min(each) for each in zip(slower, stalls, strict=True)]
    rejects = len(found) * min(least) <= terms.alpha_per_look
    return found[least.index(min(least))] if rejects else found[0]


def _limit(key: Key, deadline_ns: int, terms: Terms) -> int | None:
    """Return the limit of the request, or None.

    A trial that does not test the flag has no limit, because it may hang under every kernel.

    :raise CannotCompare: the deadline of the trials is earlier than the limit.
    """
    limit_ns = terms.limits_ns.get(key.request)
    if limit_ns is None or not key.tests_the_flag:
        return None
    if _emulated(key):
        return min(limit_ns * EMULATED, deadline_ns)
    if limit_ns > deadline_ns:
        raise CannotCompare(
            f"The limit of {key.request}, {limit_ns / NS_PER_S:g} s, is beyond the deadline of its "
            f"trials, {deadline_ns / NS_PER_S:g} s; set KICKBENCH_DEADLINE and measure again."
        )
    return limit_ns


def _boots(records: Sequence[Record], deadline_ns: int) -> list[Boot]:
    """Sort the scored trials by boot. An answer after the deadline counts as no answer."""
    by_boot: dict[str, list[Record]] = {}
    for record in records:
        if scored(record):
            by_boot.setdefault(record.boot_id, []).append(record)
    return [_boot(group, deadline_ns) for group in by_boot.values()]


def _boot(group: Sequence[Record], deadline_ns: int) -> Boot:
    hung = [each.outcome in FAILED or each.waited_ns > deadline_ns for each in group]
    return Boot(
        # At least 1, because a record may have been edited, and a ratio cannot have 0 in it.
        tuple(max(1, min(each.waited_ns, deadline_ns)) for each in group),
        tuple(hung),
        tuple(
            each.outcome is Outcome.REFUSED and not late
            for each, late in zip(group, hung, strict=True)
        ),
    )


def _counts(records: Sequence[Record], boots: Sequence[Boot]) -> KernelCounts:
    measured = [record for record in records if scored(record)]
    return KernelCounts(
        boots=len(boots),
        trials=len(records),
        hung=sum(sum(boot.hung) for boot in boots),
        died=sum(record.outcome is Outcome.DIED for record in records),
        refused=sum(sum(boot.refused) for boot in boots),
        lost=len(records) - len(measured),
        damaged=sum(record.damaged for record in records),
        median=median_wait([each for each in measured if each.outcome is not Outcome.REFUSED]),
    )
