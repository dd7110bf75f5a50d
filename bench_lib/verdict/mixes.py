# SPDX-License-Identifier: BSD-3-Clause
"""The paths on which the vCPUs of two kernels' trials were stuck.

How long a request takes depends on where the vCPUs are stuck. A guest that does not prescribe this,
such as Linux, may be stuck on one path in one trial and on another path in the next one. So
latencies are compared only between trials whose vCPUs were stuck on the same paths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench_lib.record import RUNS, Record
from bench_lib.verdict.matching import Match, scored
from bench_lib.verdict.summary import mixes


@dataclass(frozen=True)
class Mixes:
    """The mixes of paths in the trials of both kernels; see `Evidence.mix`.

    :ivar base: how many trials of the baseline had each mix.
    :ivar candidate: how many trials of the candidate had each mix.
    :ivar common: the mixes that both kernels have, first the one with most trials of both.
    """

    base: dict[str, int]
    candidate: dict[str, int]
    common: tuple[str, ...]

    @property
    def note(self) -> str:
        """The mixes and their trials, and which latencies can be compared, in words."""
        what = "no latencies can be compared, because the two kernels have no mix in common"
        if self.common:
            mixes = " or of ".join(f"[{mix}]" for mix in self.common)
            what = f"latencies can be compared only between trials of {mixes}"
        return (
            f"trials differ in where the vCPUs were stuck: baseline {_listed(self.base)}; "
            f"candidate {_listed(self.candidate)}. Hangs are judged over all trials; {what}."
        )


def differing(match: Match) -> Mixes | None:
    """Return the mixes of a match; None if all of its trials may be compared with each other.

    That is the case if all have the same mix, and in scenarios whose guests run.
    """
    base, candidate = (
        mixes(record for record in records if scored(record))
        for records in (match.base, match.candidate)
    )
    if match.key.scenario in RUNS or len(base | candidate) < 2:
        return None
    common = sorted(
        base.keys() & candidate.keys(), key=lambda mix: (-min(base[mix], candidate[mix]), mix)
    )
    return Mixes(base, candidate, tuple(common))


def with_mix(records: Sequence[Record], mix: str) -> list[Record]:
    """Return the records of trials with this mix."""
    return [record for record in records if record.evidence.mix == mix]


def _listed(counts: Mapping[str, int]) -> str:
    """Return mixes and how many trials had each: [2 uaccess] in 5, [2 gup] in 1."""
    texts = [f"[{mix}] in {number}" for mix, number in counts.items()]
    return ", ".join(texts) or "none"
