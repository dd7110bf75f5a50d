# SPDX-License-Identifier: BSD-3-Clause
"""Records and sums of them as people read them: a line, a table, a progress bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from bench_lib import doctor
from bench_lib.doctor import Status
from bench_lib.kvm.probe import Result
from bench_lib.record import FAILED, HUNG, Host, Kernel, Outcome, Record, Thread
from bench_lib.units import NS_PER_S
from bench_lib.verdict.gate import Comparison, Gate, Verdict
from bench_lib.verdict.inference import Ratio
from bench_lib.verdict.matching import host_name
from bench_lib.verdict.summary import Difference, KeySummary, Pace, Recoveries, Wait
from bench_lib.verdict.tested import KernelCounts

NS_PER_MS = 1_000_000


WIDE = 120
"""Columns where there is no terminal to ask, as in a file or a CI log."""


def stdout() -> Console:
    """A console for results, as wide as the terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDE)


def duration(ns: int) -> str:
    """0.64 ms, 17 ms, 5.0 s: two digits and the unit that suits."""
    if ns < 10 * NS_PER_MS:
        return f"{ns / NS_PER_MS:.2f} ms"
    if ns < NS_PER_S:
        return f"{ns / NS_PER_MS:.0f} ms"
    return f"{ns / NS_PER_S:.1f} s"


def wait(value: Wait | None) -> str:
    """A duration; "> 5.0 s" where the answer never came, "-" where nothing was measured."""
    if value is None:
        return "-"
    return f"> {duration(value.ns)}" if value.censored else duration(value.ns)


def size(number: int) -> str:
    """Bytes in MiB: 404 MiB."""
    return f"{number >> 20} MiB"


def count(number: int, noun: str) -> str:
    """1 boot, 2 boots."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def trial_line(record: Record) -> str:
    """One trial in one line."""
    parts = [f"{record.key.name}: {record.outcome}"]
    if record.outcome in HUNG:
        parts.append(f"no answer in {duration(record.deadline_ns)}")
        if record.late_ns is not None:
            parts.append(f"answered after {duration(record.late_ns)}, too late")
        if (blocking := record.evidence.blocking) is not None:
            parts.append(f"blocked by {_blocker(blocking)}")
    elif record.latency_ns is not None:
        parts.append(f"after {duration(record.latency_ns)}")
    if record.reason:
        parts.append(record.reason)
    if record.outage:
        parts.append(f"by {record.outage}")
    if record.recovery and record.recovery.failure:
        parts.append(f"NOT RECOVERED: {record.recovery.failure}")
    elif record.recovery:
        parts.append(f"recovered, memory {record.recovery.memory}")
    parts.extend(
        f"vCPU {thread.vcpu} {thread.state} {thread.wchan} {thread.entry}"
        for thread in record.evidence.vcpus
    )
    if record.survivors:
        parts.append(f"did not end when killed: {', '.join(record.survivors)}")
    return f"#{record.seq} " + ", ".join(parts)


def _blocker(thread: Thread) -> str:
    """A thread that explains a hang: vCPU 0 D handle_userfault (gup, userfault)."""
    return f"{thread.label} {thread.state} {thread.wchan} ({thread.entry}, {thread.waits_for})"


def outcomes(row: KeySummary) -> str:
    """8 of 8 returned; 3 of 8 returned, 5 asleep; 8 of 8 refused (median 1.20 ms, worst 17 ms)."""
    counted = [f"{row.outcomes[each]} {each}" for each in Outcome if row.outcomes[each]]
    first, _, rest = counted[0].partition(" ")
    counted[0] = f"{first} of {row.trials} {rest}"
    if row.refused_median is not None:
        times = f" (median {wait(row.refused_median)}, worst {wait(row.refused_worst)})"
        counted = [f"{each}{times if each.endswith(Outcome.REFUSED) else ''}" for each in counted]
    return ", ".join(counted)


def report(
    console: Console,
    rows: Sequence[KeySummary],
    paces: Sequence[Pace],
    differences: Sequence[Difference],
) -> None:
    """A table for each kernel and host, and where the time of the trials went."""
    for kernel, host in _places(rows):
        _heading(console, kernel, host)
        for each in differences:
            if (each.kernel, each.host) == (kernel, host):
                console.print(_difference_line(each), style="yellow", soft_wrap=True)
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=0)
        table.add_column("request", no_wrap=True)
        table.add_column("scenario", no_wrap=True)
        table.add_column("outcome")
        table.add_column("median", justify="right", no_wrap=True)
        table.add_column("worst", justify="right", no_wrap=True)
        table.add_column("vCPUs before it")
        for row in rows:
            if (row.kernel, row.key.host) == (kernel, host):
                seen = (row.states, row.wchans, row.entries)
                table.add_row(
                    row.key.request,
                    row.key.place,
                    outcomes(row),
                    wait(row.median),
                    wait(row.worst),
                    " ".join("/".join(values) for values in seen) if row.states else "-",
                    style="bold red" if row.failed else None,
                )
        console.print(table)
        for pace in paces:
            if (pace.kernel, pace.host) == (kernel, host):
                console.print(_pace_line(pace), highlight=False, soft_wrap=True)


def _places(rows: Sequence[KeySummary]) -> list[tuple[Kernel, Host]]:
    """The kernels and hosts that the rows are of, in the order of their first."""
    return list(dict.fromkeys((row.kernel, row.key.host) for row in rows))


def _difference_line(each: Difference) -> Text:
    values = " / ".join(each.values)
    return Text(f"made on differing set-ups: {each.name} {values}")


def _heading(console: Console, kernel: Kernel, host: Host) -> None:
    console.print(
        f"\n[bold]{kernel.release}[/] {escape(kernel.version)}, "
        f"{host.kind} ({host.accelerator}) on {escape(host.machine)}",
        highlight=False,
        soft_wrap=True,
    )


def matrix(console: Console, rows: Sequence[KeySummary]) -> None:
    """A table for each kernel and host: requests down, scenarios across."""
    for kernel, host in _places(rows):
        _heading(console, kernel, host)
        mine = [row for row in rows if (row.kernel, row.key.host) == (kernel, host)]
        places = list(dict.fromkeys(row.key.place for row in mine))
        cells = {(row.key.request, row.key.place): row for row in mine}
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("request", no_wrap=True)
        for place in places:
            # Break a name that is wider than its column; if names are cut short, they look alike.
            table.add_column(place, overflow="fold")
        for request in dict.fromkeys(row.key.request for row in mine):
            table.add_row(request, *(_cell(cells.get((request, each))) for each in places))
        console.print(table)
    console.print(
        "vCPU state and entry before the request; the median, a bound where it hung",
        highlight=False,
        soft_wrap=True,
    )


def _cell(row: KeySummary | None) -> str:
    """Returned 0.54 ms S gup; asleep > 5.0 s D gup (3/8)."""
    if row is None:
        return "-"
    ended = [each for each in Outcome if row.outcomes[each]]
    number = f" {row.outcomes[ended[0]]}/{row.trials}" if row.trials > 1 else ""
    first = f"{ended[0]}{number}" if len(ended) == 1 else outcomes(row)
    seen = " ".join("/".join(values) for values in (row.states, row.entries))
    usual = row.refused_median if ended == [Outcome.REFUSED] else row.median
    text = f"{first} {wait(usual)} {seen}".rstrip(" -")
    if row.failed:
        return f"[bold red]{text}[/]"
    return f"[yellow]{text}[/]" if row.outcomes[Outcome.LOST] else text


def recoveries(console: Console, rows: Sequence[Recoveries]) -> None:
    """A line for each, damage loudest."""
    for row in rows:
        parts = [f"{row.whole} of {row.asked} whole"]
        for what, ns in (
            ("the request answered after all", row.answered_ns),
            ("migration completed", row.completed_ns),
            ("next pass of every vCPU", row.next_pass_ns),
        ):
            if ns is not None:
                parts.append(f"{what} {duration(ns)}")
        text = f"recovered after {row.key.name}: {', '.join(parts)}"
        if row.failed:
            text = f"[bold red]{row.failed} of {row.asked} NOT RECOVERED[/]; {text}"
        if row.damaged:
            text = f"[bold red]{row.damaged} of {row.asked} DAMAGED[/]; {text}"
        console.print(text, highlight=False, soft_wrap=True)


def _pace_line(pace: Pace) -> str:
    stages = ", ".join(f"{each.name} {each.median_ns / NS_PER_S:.3f}" for each in pace.stages)
    return (
        f"{pace.scenario}: median {pace.median_ns / NS_PER_S:.2f} s a trial "
        f"(n = {pace.trials}); {stages}"
    )


VERDICT_STYLE = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.INCONCLUSIVE: "yellow",
}


def gate(console: Console, found: Gate) -> None:
    """A table for each host, why a row did not pass below it, and a sentence."""
    for host in dict.fromkeys(row.key.host for row in found.rows):
        console.print(
            f"\n[bold]{escape(found.base.release)} -> {escape(found.candidate.release)}[/], "
            f"{host.kind} ({host.accelerator}) on {escape(host.machine)}",
            highlight=False,
            soft_wrap=True,
        )
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for name in ("request", "scenario", "baseline", "candidate", "ratio", "hangs", "verdict"):
            table.add_column(name, no_wrap=name in {"request", "scenario", "verdict"})
        rows = [row for row in found.rows if row.key.host == host]
        for row in rows:
            sides = (row.base, row.candidate)
            table.add_row(
                row.key.request,
                row.key.place,
                *(f"{_usual(each)} ({count(each.boots, 'boot')})" for each in sides),
                _ratio(row.ratio),
                _hangs(row),
                Text(row.verdict, style=VERDICT_STYLE[row.verdict]),
            )
        console.print(table)
        for row in rows:
            if row.reasons:
                console.print(Text(f"{row.key.name}: {'; '.join(row.reasons)}"), soft_wrap=True)
    if found.emulated:
        console.print(
            "Emulated (tcg): hangs are judged, milliseconds are not, and limits are ten times as "
            "long, but no longer than the deadline.",
            soft_wrap=True,
        )
    if found.left_out:
        hosts = ", ".join(map(host_name, found.left_out))
        console.print(Text(f"Left out, for only one was measured there: {hosts}"), soft_wrap=True)
    for note in found.notes:
        console.print(Text(f"Differs between the two: {note}"), soft_wrap=True)
    if found.unread:
        text = f"{count(found.unread, 'line')} of the record file could not be read."
        console.print(Text(text, "yellow"), soft_wrap=True)
    console.print(
        Text(f"{found.verdict}: {found.sentence}", VERDICT_STYLE[found.verdict]), soft_wrap=True
    )


def _usual(side: KernelCounts) -> str:
    """The median wait; where all trials were refused, that."""
    return "refused" if side.median is None and side.refused else wait(side.median)


def _hangs(row: Comparison) -> str:
    """0/10 -> 0/10, < 45 %: trials that hung, and boots of the candidate that still may.

    Where there are refusals, they follow.
    """
    sides = (row.base, row.candidate)
    text = " -> ".join(f"{each.hung}/{each.trials - each.lost}" for each in sides)
    if row.hang_bound is not None and row.hang_bound < 1:
        text += f", < {row.hang_bound:.0%}"
    if any(each.refused for each in sides):
        refused = " -> ".join(f"{each.refused}/{each.trials - each.lost}" for each in sides)
        text += f"; refused {refused}"
    return text


def _ratio(ratio: Ratio | None) -> str:
    """1.02 (0.97 to 1.08); > 380 where no answer came."""
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


def doctor_finding(console: Console, row: doctor.Finding) -> None:
    """A check, and below it what follows and what fixes it."""
    style = {Status.FINE: "green", Status.DEGRADED: "yellow", Status.MISSING: "bold red"}
    head = Text(f"{row.status:9}", style=style[row.status]).append(f"{row.name:14}", "default")
    console.print(head.append(row.found, "default"), soft_wrap=True)
    for label, text in (("so", row.means), ("fix", row.fix)):
        if text:
            console.print(Text(f"{'':9}{label:>12}  {text}"), soft_wrap=True)


def probe_heading(console: Console, width: int) -> None:
    """The first line of a table whose rows come one by one. :param width: of the first column."""
    text = f"{'case':{width}} {'outcome':9} {'median':>9} {'worst':>9} {'n':>5}  stuck"
    console.print(text, highlight=False, soft_wrap=True)


def probe_row(console: Console, width: int, result: Result) -> None:
    """A case of the probe."""
    median, worst = (
        "-" if each is None else f"{each:.0f} us" for each in (result.median_us, result.worst_us)
    )
    seen = [result.state, result.wchan, result.fault_path, result.reason]
    console.print(
        f"{result.case:{width}} {result.outcome or 'skipped':9} {median:>9} {worst:>9} "
        f"{len(result.wakes_ns):>5}  {escape(' '.join(filter(None, seen)))}",
        style="bold red" if result.outcome in FAILED else None,
        highlight=False,
        soft_wrap=True,
    )


@contextmanager
def progress(console: Console, total: int, what: str) -> Iterator[Callable[[], None]]:
    """A progress bar with the time left on a terminal, nothing elsewhere.

    :return: to be called when one of `total` is done.
    """
    bar = Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


@contextmanager
def download(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar in bytes on a terminal, a plain line elsewhere.

    :return: to be called with the bytes that are there and those in all.
    """
    if not console.is_terminal:
        console.print(f"{what} ...", markup=False, highlight=False, soft_wrap=True)
    bar = Progress(
        TextColumn(what, markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda here, total: bar.update(task, completed=here, total=total or None)


@dataclass(frozen=True)
class KernelRow:
    """A known build, as it is listed.

    :ivar date: of the build, empty where only apt knows of it.
    :ivar source: where it came from, or comes from.
    :ivar interruptible: yes, no or unknown, by the kernel's types; empty without an image.
    :ivar size_bytes: of disk that it takes in the cache.
    """

    release: str
    date: str
    stream: str
    source: str
    fetched: bool
    booted: bool
    measured: bool
    interruptible: str = ""
    size_bytes: int = 0


def kernels(console: Console, rows: Sequence[KernelRow]) -> None:
    """A table of builds."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=0)
    for heading in ("release", "stream", "built", "fetched", "measured", "interruptible"):
        table.add_column(heading, overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("from", overflow="fold")
    for row in rows:
        table.add_row(
            row.release + (" (booted)" if row.booted else ""),
            row.stream,
            row.date or "-",
            "yes" if row.fetched else "no",
            "yes" if row.measured else "no",
            row.interruptible or "-",
            size(row.size_bytes) if row.fetched else "-",
            row.source or "-",
        )
    console.print(table)
