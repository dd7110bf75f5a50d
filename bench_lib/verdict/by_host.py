# SPDX-License-Identifier: BSD-3-Clause
"""The verdict of each host: that of its own comparisons. Results of hosts are never combined."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bench_lib.record import FAILED, Host, Key, Record
from bench_lib.verdict.comparison import Comparison, Verdict, boots_needed, overall
from bench_lib.verdict.matching import Matches, host_name


@dataclass(frozen=True)
class HostVerdict:
    """Whether the candidate may be rolled out on one host.

    :ivar comparisons: the number of comparisons, each of which is a row of the gate.
    :ivar deciding: how many of them have the verdict of the host; 0 if the host is inconclusive
        although all of them pass.
    :ivar why: the first reason for the verdict, in words; None for `pass`.
    :ivar hang_bound: the largest share of the candidate's boots with a hang that is not ruled out,
        over all comparisons that pass; None if there are none.
    :ivar boots_needed: boots per kernel that would settle the verdict; None if it is settled, or if
        no number is known to settle it.
    """

    host: Host
    verdict: Verdict
    comparisons: int
    deciding: int
    why: str | None
    hang_bound: float | None
    boots_needed: int | None

    @property
    def reason(self) -> str:
        """Return why the host did not pass, and how many comparisons say so beside the first."""
        assert self.why is not None
        return self.why + (f" (and {self.deciding - 1} more)" if self.deciding > 1 else "")

    def __str__(self) -> str:
        """Return the verdict in a line: host-a (lab, tcg): fail: stop in paused: hangs more often.

        The reason follows the verdict, or what a pass does not rule out.
        """
        line = f"{host_name(self.host)}: {self.verdict}: "
        if self.verdict is not Verdict.PASS:
            settle = f" {self.boots_needed} boots per kernel would settle it."
            return f"{line}{self.reason}.{settle if self.boots_needed else ''}"
        return (
            f"{line}in {self.comparisons} of {self.comparisons} comparisons it is no worse; "
            f"{not_ruled_out([self])}."
        )


def not_ruled_out(hosts: Sequence[HostVerdict]) -> str:
    """Return in words which hangs a pass on these hosts does not rule out."""
    bound = max(each.hang_bound or 0.0 for each in hosts)
    return f"hangs in up to {bound:.0%} of boots are not ruled out"


def by_host(rows: Sequence[Comparison], found: Matches) -> tuple[HostVerdict, ...]:
    """Return the verdict of each host on which both kernels were tried."""
    hosts = dict.fromkeys([*(row.key.host for row in rows), *(key.host for key in found.missed)])
    return tuple(
        _of_host(
            host,
            [row for row in rows if row.key.host == host],
            missed([key for key in found.missed if key.host == host])
            or alone(found.alone.get(host, [])),
        )
        for host in hosts
    )


def _of_host(host: Host, rows: Sequence[Comparison], doubt: str | None) -> HostVerdict:
    """Return the verdict of a host.

    :param doubt: what speaks against a pass beside the comparisons.
    """
    verdict = overall(row.verdict for row in rows)
    deciding = [row for row in rows if row.verdict is verdict]
    why = None
    if verdict is not Verdict.PASS:
        why = f"{deciding[0].key.name}: {'; '.join(deciding[0].reasons)}"
    elif doubt is not None:
        verdict, deciding, why = Verdict.INCONCLUSIVE, [], doubt
    bounds = [row.hang_bound or 0.0 for row in rows if row.verdict is Verdict.PASS]
    return HostVerdict(
        host,
        verdict,
        len(rows),
        len(deciding),
        why,
        max(bounds, default=None),
        boots_needed(rows) if verdict is Verdict.INCONCLUSIVE else None,
    )


def unmeasured(hosts: Sequence[HostVerdict], machines: Collection[str]) -> str | None:
    """Return what speaks against a pass if not all of these machines have measured both kernels."""
    there = {each.host.machine for each in hosts}
    if not (lacking := sorted(set(machines) - there)):
        return None
    return f"{', '.join(lacking)} did not measure both kernels"


def missed(keys: Sequence[Key]) -> str | None:
    """Return what speaks against a pass if only the baseline was tried with some keys."""
    if not keys:
        return None
    more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
    return f"{keys[0].name}: the baseline was measured, and the candidate was not tried{more}"


def alone(records: Sequence[Record]) -> str | None:
    """Return what speaks against a pass in trials for which the baseline was not measured."""
    bad = [each for each in records if each.outcome in FAILED or each.damaged]
    if not bad:
        return None
    where = ", ".join(sorted({f"{each.key.place} on {host_name(each.host)}" for each in bad}))
    return (
        f"{len(bad)} of its {len(records)} trials where the baseline was not measured hung, died "
        f"or damaged memory ({where})"
    )
