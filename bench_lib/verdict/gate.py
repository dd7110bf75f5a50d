# SPDX-License-Identifier: BSD-3-Clause
"""The gate: compares the records of two kernels, and decides whether one may follow the other."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bench_lib.record import Host, Kernel, Record
from bench_lib.units import NS_PER_S
from bench_lib.verdict import inference
from bench_lib.verdict.by_boot import hanging_boots
from bench_lib.verdict.by_host import HostVerdict, alone, by_host, not_ruled_out, unmeasured
from bench_lib.verdict.comparison import Comparison, Verdict, boots_needed, overall
from bench_lib.verdict.doubts import doubts, refuses_more
from bench_lib.verdict.effect import Ratio, ratio
from bench_lib.verdict.matching import Untried, host_name, matched
from bench_lib.verdict.terms import DEFAULT_TERMS, Terms
from bench_lib.verdict.tested import Tested, tested


@dataclass(frozen=True)
class Gate:
    """The verdict over all rows. A candidate that fails on one host fails.

    :ivar sentence: the verdict in words.
    :ivar hosts: the verdict of each host on which both kernels were tried.
    :ivar left_out: hosts on which only one of the kernels was measured.
    :ivar notes: settings that differ between the kernels and may be their choice, in words.
    :ivar unread: number of lines of the record file that could not be read. They may hold trials of
        either kernel.
    :ivar untried: the trials of either kernel that were not tried, and so are left out.
    """

    base: Kernel
    candidate: Kernel
    verdict: Verdict
    sentence: str
    emulated: bool
    rows: tuple[Comparison, ...]
    hosts: tuple[HostVerdict, ...]
    left_out: tuple[Host, ...]
    notes: tuple[str, ...] = ()
    unread: int = 0
    untried: tuple[Untried, ...] = ()

    @property
    def boots_needed(self) -> int | None:
        """Boots per kernel that would settle all rows; None if no number is known to."""
        return boots_needed(self.rows)


def compare(
    records: Sequence[Record],
    base: Kernel,
    candidate: Kernel,
    terms: Terms = DEFAULT_TERMS,
    *,
    whatever_differs: bool = False,
    unread: int = 0,
    machines: Collection[str] = (),
) -> Gate:
    """Judge a candidate by the records.

    :param whatever_differs: also compare records of differing hosts, QEMUs or settings.
    :param unread: number of lines of the record file that could not be read.
    :param machines: the names of hosts on which both kernels have to be measured for a pass.
    :raise CannotCompare: the records differ in this way, or there is nothing to compare.
    """
    found = matched(records, base, candidate, whatever_differs=whatever_differs)
    tested_keys = [tested(match, terms) for match in found.matches]
    places = [(row, name) for row in tested_keys for name in row.p]
    for (row, name), adjusted in zip(
        places, inference.holm([row.p[name] for row, name in places]), strict=True
    ):
        row.p[name] = adjusted
    rows = tuple(_judged(row, terms, len(places)) for row in tested_keys)
    hosts = by_host(rows, found)
    verdict = overall(each.verdict for each in hosts)
    sentence = _sentence(base, candidate, verdict, hosts)
    doubt = unmeasured(hosts, machines) or alone(
        [each for host in found.left_out for each in found.alone.get(host, [])]
    )
    if verdict is Verdict.PASS and doubt:
        verdict, sentence = Verdict.INCONCLUSIVE, _not_known(base, candidate, f"{doubt}.")
    return Gate(
        base,
        candidate,
        verdict,
        sentence,
        any(row.emulated for row in tested_keys),
        rows,
        hosts,
        found.left_out,
        found.notes,
        unread,
        found.untried,
    )


def _judged(row: Tested, terms: Terms, family: int) -> Comparison:
    effect = None
    bound = None
    if row.base_boots and row.candidate_boots:
        hits = hanging_boots(row.candidate_boots)
        bound = inference.bound_above(hits, row.candidate.boots, terms.confidence)
        if row.timed is not None:
            effect = ratio(row.timed.base, row.timed.candidate, terms.confidence)
    verdict, reasons, needed = _verdict(row, terms, family, effect, bound)
    return Comparison(
        key=row.key,
        base=row.base,
        candidate=row.candidate,
        ratio=effect,
        hang_bound=bound,
        p_hangs=row.p.get("hangs"),
        p_refusals=row.p.get("refusals"),
        p_slower=row.p.get("slower"),
        p_stalls=row.p.get("stalls"),
        p_late=row.p.get("late"),
        limit_ns=row.limit_ns,
        verdict=verdict,
        reasons=reasons,
        boots_needed=needed,
        mixes=row.mixes,
    )


def _verdict(
    row: Tested, terms: Terms, family: int, effect: Ratio | None, bound: float | None
) -> tuple[Verdict, tuple[str, ...], int | None]:
    """Return the verdict of a row, its reasons, and the boots per kernel that would settle it."""
    if row.candidate.damaged:
        text = f"{row.candidate.damaged} of its guests found their memory damaged"
        return Verdict.FAIL, (text,), None
    for counts, name in ((row.base, "the baseline"), (row.candidate, "the candidate")):
        if not counts.boots:
            return Verdict.INCONCLUSIVE, (f"no trial of {name} gave a measurement",), None
        if counts.lost > terms.lost * counts.trials:
            text = f"{counts.lost} of {counts.trials} trials of {name} measured nothing"
            return Verdict.INCONCLUSIVE, (text,), None
    if failures := _failures(row, terms):
        return Verdict.FAIL, failures, None
    assert bound is not None
    found = doubts(row, terms, family, effect, bound)
    if not found:
        return Verdict.PASS, (), None
    needed = max(each.boots for each in found)
    boots = min(row.base.boots, row.candidate.boots)
    enough = math.ceil(needed) if boots < needed < math.inf else None
    return Verdict.INCONCLUSIVE, tuple(each.text for each in found), enough


def _failures(row: Tested, terms: Terms) -> tuple[str, ...]:
    found = []
    if row.p["hangs"] < terms.alpha_per_look:
        found.append(f"hangs{' or dies' if row.candidate.died else ''} more often")
    if row.p.get("refusals", 1.0) < terms.alpha_per_look and refuses_more(row):
        found.append("refuses more often")
    if row.p.get("late", 1.0) < terms.alpha_per_look:
        assert row.limit_ns is not None
        found.append(f"has no answer within {row.limit_ns / NS_PER_S:g} s")
    if row.p.get("slower", 1.0) < terms.alpha_per_look:
        found.append(f"takes more than {terms.tolerance:g} times as long")
    if row.p.get("stalls", 1.0) < terms.alpha_per_look:
        found.append(f"takes more than {terms.stall:g} times the usual wait more often")
    return tuple(found)


def _sentence(
    base: Kernel, candidate: Kernel, verdict: Verdict, hosts: Sequence[HostVerdict]
) -> str:
    """Return the verdict in words, the last line of the output."""
    several = len(hosts) > 1
    if verdict is Verdict.PASS:
        count = sum(each.comparisons for each in hosts)
        where = f"on {len(hosts)} of {len(hosts)} hosts, " if several else ""
        return (
            f"{candidate.release} may follow {base.release}: {where}in {count} of {count} "
            f"comparisons it is no worse; {not_ruled_out(hosts)}."
        )
    deciding = [each for each in hosts if each.verdict is verdict]
    first = deciding[0]
    why = f"{first.reason}."
    if several:
        why = f"it {_where(hosts)}. On {host_name(first.host)}: {why}"
    if verdict is Verdict.FAIL:
        return f"{candidate.release} must not follow {base.release}: {why}"
    needed = [each.boots_needed for each in deciding]
    enough = max((each for each in needed if each is not None), default=None)
    on_each = " on each host" if several else ""
    settle = f" {enough} boots per kernel{on_each} would settle it."
    return _not_known(base, candidate, why) + (settle if enough and None not in needed else "")


def _where(hosts: Sequence[HostVerdict]) -> str:
    """Return in words on which of several hosts the candidate did not pass."""
    parts = []
    for verdict, text in (
        (Verdict.FAIL, "fails on"),
        (Verdict.INCONCLUSIVE, "is inconclusive on"),
    ):
        if names := [host_name(each.host) for each in hosts if each.verdict is verdict]:
            parts.append(f"{text} {', '.join(names)}")
    passed = sum(each.verdict is Verdict.PASS for each in hosts)
    if passed:
        parts.append(f"passes on {passed} of {len(hosts)} hosts")
    *others, last = parts
    return f"{', '.join(others)}, and {last}" if others else last


def _not_known(base: Kernel, candidate: Kernel, why: str) -> str:
    return f"Whether {candidate.release} may follow {base.release} is not known yet: {why}"
