# SPDX-License-Identifier: BSD-3-Clause
"""The verdict of the gate: a table per host, the reasons, a line per host, and a sentence."""

from __future__ import annotations

import math

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bench_lib.present.words import count, in_one_line, wait
from bench_lib.verdict.comparison import Comparison, Verdict
from bench_lib.verdict.effect import Ratio
from bench_lib.verdict.gate import Gate
from bench_lib.verdict.matching import host_name
from bench_lib.verdict.tested import KernelCounts

VERDICT_STYLE = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.INCONCLUSIVE: "yellow",
}


def gate(console: Console, found: Gate) -> None:
    """Print a table for each host, the reasons of rows that did not pass, and the verdicts."""
    for host in dict.fromkeys(row.key.host for row in found.rows):
        console.print(
            f"\n[bold]{escape(found.base.release)} -> {escape(found.candidate.release)}[/], "
            f"{host.kind} ({host.accelerator}) on {escape(host.machine)}",
            highlight=False,
            soft_wrap=True,
        )
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        rows = [row for row in found.rows if row.key.host == host]
        short = {"scenario"} if in_one_line(row.key.place for row in rows) else set()
        for name in ("request", "scenario", "baseline", "candidate", "ratio", "hangs", "verdict"):
            whole = name in {"request", "verdict", *short}
            table.add_column(name, no_wrap=whole, overflow="fold")
        for row in rows:
            both = (row.base, row.candidate)
            table.add_row(
                row.key.request,
                row.key.place,
                *(f"{_usual(each)} ({count(each.boots, 'boot')})" for each in both),
                _ratio(row.ratio),
                _hangs(row),
                Text(row.verdict, style=VERDICT_STYLE[row.verdict]),
            )
        console.print(table)
        for row in rows:
            if row.reasons:
                console.print(Text(f"{row.key.name}: {'; '.join(row.reasons)}"), soft_wrap=True)
        for row in rows:
            if row.mixes is not None:
                console.print(Text(f"{row.key.name}: {row.mixes.note}"), soft_wrap=True)
    if found.emulated:
        console.print(
            "Emulated (tcg): hangs are judged, milliseconds are not, and limits are ten times as "
            "long, but no longer than the deadline.",
            soft_wrap=True,
        )
    if found.left_out:
        hosts = ", ".join(map(host_name, found.left_out))
        console.print(
            Text(f"Left out, because only one of the kernels was measured there: {hosts}"),
            soft_wrap=True,
        )
    for each in found.untried:
        console.print(Text(f"Left out: {each}"), soft_wrap=True)
    for note in found.notes:
        console.print(Text(f"Differs between the kernels: {note}"), soft_wrap=True)
    if found.unread:
        text = f"{count(found.unread, 'line')} of the record file could not be read."
        console.print(Text(text, "yellow"), soft_wrap=True)
    if len(found.hosts) > 1:
        for each_host in found.hosts:
            style = VERDICT_STYLE[each_host.verdict]
            console.print(Text(str(each_host), style), soft_wrap=True)
    console.print(
        Text(f"{found.verdict}: {found.sentence}", VERDICT_STYLE[found.verdict]), soft_wrap=True
    )


def _usual(counts: KernelCounts) -> str:
    """Return the median wait, or "refused" if all trials were refused."""
    return "refused" if counts.median is None and counts.refused else wait(counts.median)


def _hangs(row: Comparison) -> str:
    """Return the trials that hung under both kernels, and the refusals if there are any.

    In "0/10 -> 0/10, < 45%" the percentage is the share of the candidate's boots that may still
    hang.
    """
    both = (row.base, row.candidate)
    text = " -> ".join(f"{each.hung}/{each.trials - each.lost}" for each in both)
    if row.hang_bound is not None and row.hang_bound < 1:
        text += f", < {row.hang_bound:.0%}"
    if any(each.refused for each in both):
        refused = " -> ".join(f"{each.refused}/{each.trials - each.lost}" for each in both)
        text += f"; refused {refused}"
    return text


def _ratio(ratio: Ratio | None) -> str:
    """Return the ratio and its interval: 1.02 (0.97 to 1.08); > 380 if there was no answer."""
    if ratio is None:
        return "-"
    low, high = (
        f"{each:.2f}" if math.isfinite(each) else "any" for each in (ratio.low, ratio.high)
    )
    if ratio.at_least == ratio.at_most:
        return f"{ratio.at_least:.2f} ({low} to {high})"
    if math.isinf(ratio.at_most) and ratio.at_least:
        return f"> {ratio.at_least:.3g} ({low} to {high})"
    return "-" if math.isinf(ratio.at_most) else f"< {ratio.at_most:.3g} ({low} to {high})"
