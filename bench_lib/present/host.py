# SPDX-License-Identifier: BSD-3-Clause
"""The findings of the doctor, and the cases of the probe."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from bench_lib import doctor
from bench_lib.doctor import Status
from bench_lib.kvm.probe import Result
from bench_lib.record import FAILED


def doctor_finding(console: Console, row: doctor.Finding) -> None:
    """Print a finding of the doctor, what it means, and what fixes it."""
    style = {Status.FINE: "green", Status.DEGRADED: "yellow", Status.MISSING: "bold red"}
    head = Text(f"{row.status:9}", style=style[row.status]).append(f"{row.name:14}", "default")
    console.print(head.append(row.found, "default"), soft_wrap=True)
    for label, text in (("so", row.means), ("fix", row.fix)):
        if text:
            console.print(Text(f"{'':9}{label:>12}  {text}"), soft_wrap=True)


def probe_heading(console: Console, width: int) -> None:
    """Print the heading of the probe's table, whose rows follow one by one.

    :param width: the width of the first column.
    """
    text = f"{'case':{width}} {'outcome':9} {'median':>9} {'worst':>9} {'n':>5}  stuck"
    console.print(text, highlight=False, soft_wrap=True)


def probe_row(console: Console, width: int, result: Result) -> None:
    """Print a row of the probe's table: the result of a case."""
    median, worst = (
        "-" if each is None else f"{each:.0f} us" for each in (result.median_us, result.worst_us)
    )
    seen = [result.state, result.wchan, result.fault_path, result.reason, result.note]
    console.print(
        f"{result.case:{width}} {result.outcome or 'skipped':9} {median:>9} {worst:>9} "
        f"{len(result.wakes_ns):>5}  {escape(' '.join(filter(None, seen)))}",
        style="bold red" if result.outcome in FAILED else None,
        highlight=False,
        soft_wrap=True,
    )
