# SPDX-License-Identifier: BSD-3-Clause
"""Trials, in one line each and in tables that sum them up."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bench_lib.present.words import duration, in_one_line, wait
from bench_lib.record import HUNG, Family, FollowUp, Host, Kernel, Outcome, Record, Thread
from bench_lib.units import NS_PER_S
from bench_lib.verdict.pace import Pace
from bench_lib.verdict.summary import Difference, KeySummary, Recoveries


def trial_line(record: Record) -> str:
    """Return a trial in one line."""
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
    if record.ended_ns is not None:
        parts.append(f"QEMU ended after {duration(record.ended_ns)}")
    if record.then is not None:
        parts.append(_second(record.then))
    if record.outage:
        parts.append(f"by {record.outage}")
    if record.recovery and record.recovery.failure:
        parts.append(f"NOT RECOVERED: {record.recovery.failure}")
    elif record.recovery:
        parts.append(f"recovered, memory {record.recovery.memory}")
    parts.extend(_vcpus(record.evidence.vcpus))
    if record.survivors:
        parts.append(f"did not end when killed: {', '.join(record.survivors)}")
    return f"#{record.seq} " + ", ".join(parts)


def _vcpus(threads: Sequence[Thread]) -> list[str]:
    """Return what vCPUs did, those that are alike together: 254 vCPUs S handle_userfault gup."""
    alike: dict[str, list[Thread]] = {}
    for each in threads:
        alike.setdefault(f"{each.state} {each.wchan} {each.entry}", []).append(each)
    return [
        f"{group[0].label if len(group) == 1 else f'{len(group)} vCPUs'} {what}"
        for what, group in alike.items()
    ]


def _second(then: FollowUp) -> str:
    """Return the second request of a trial: then virt-destroy: returned after 203 ms."""
    text = f"then {then.request}: {then.outcome}"
    if then.outcome in HUNG:
        text += f", no answer in {duration(then.deadline_ns)}"
    elif then.latency_ns is not None:
        text += f" after {duration(then.latency_ns)}"
    if then.ended_ns is not None:
        text += f" (QEMU ended after {duration(then.ended_ns)})"
    return f"{text} ({then.reason})" if then.reason else text


def _blocker(thread: Thread) -> str:
    """Return the thread that explains a hang: vCPU 0 D handle_userfault (gup, userfault)."""
    return f"{thread.label} {thread.state} {thread.wchan} ({thread.entry}, {thread.waits_for})"


def outcomes(row: KeySummary) -> str:
    """Return how many trials had each outcome.

    Examples: 8 of 8 returned; 3 of 8 returned, 5 asleep; 8 of 8 refused (median 1.20 ms, worst 17
    ms).
    """
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
    """Print a table for each kernel and host, and where the time of the trials went."""
    for kernel, host in _places(rows):
        _heading(console, kernel, host)
        for each in differences:
            if (each.kernel, each.host) == (kernel, host):
                console.print(_difference_line(each), style="yellow", soft_wrap=True)
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=0)
        table.add_column("request", no_wrap=True)
        places = [row.key.place for row in rows]
        table.add_column("scenario", no_wrap=in_one_line(places), overflow="fold")
        table.add_column("outcome")
        table.add_column("median", justify="right", no_wrap=True)
        table.add_column("worst", justify="right", no_wrap=True)
        table.add_column("vCPUs before it")
        for row in rows:
            if (row.kernel, row.key.host) == (kernel, host):
                table.add_row(
                    row.key.request,
                    row.key.place,
                    outcomes(row),
                    wait(row.median),
                    wait(row.worst),
                    _seen(row, row.states, row.wchans) or "-",
                    style="bold red" if row.failed else None,
                )
        console.print(table)
        for pace in paces:
            if (pace.kernel, pace.host) == (kernel, host):
                console.print(_pace_line(pace), highlight=False, soft_wrap=True)


def _seen(row: KeySummary, *columns: Sequence[str]) -> str:
    """Return what the vCPUs did, and their mix of entries: S handle_userfault: 2 uaccess, 1 gup.

    :param columns: what to show before the mix.
    """
    what = " ".join("/".join(values) for values in columns)
    if row.key.shape.vcpus == 1:
        return f"{what} {'/'.join(row.mixes)}".strip()
    # Slashes would be hard to tell from the commas of a mix.
    return f"{what}: {' or '.join(row.mixes)}" if row.mixes else what


def _places(rows: Sequence[KeySummary]) -> list[tuple[Kernel, Host]]:
    """Return the kernels and hosts of the rows, in the order of their first rows."""
    return list(dict.fromkeys((row.kernel, row.key.host) for row in rows))


def _difference_line(each: Difference) -> Text:
    values = " / ".join(each.values)
    return Text(f"made on different set-ups: {each.name} {values}")


def _heading(console: Console, kernel: Kernel, host: Host) -> None:
    console.print(
        f"\n[bold]{kernel.release}[/] {escape(kernel.version)}, "
        f"{host.kind} ({host.accelerator}) on {escape(host.machine)}",
        highlight=False,
        soft_wrap=True,
    )


def matrix(console: Console, rows: Sequence[KeySummary]) -> None:
    """Print a table for each kernel and host, with a row per request and a column per scenario."""
    for kernel, host in _places(rows):
        _heading(console, kernel, host)
        mine = [row for row in rows if (row.kernel, row.key.host) == (kernel, host)]
        places = list(dict.fromkeys(row.key.place for row in mine))
        cells = {(row.key.request, row.key.place): row for row in mine}
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("request", no_wrap=True)
        for place in places:
            # A name that is wider than its column is broken. Names that are cut short look alike.
            table.add_column(place, overflow="fold")
        for request in dict.fromkeys(row.key.request for row in mine):
            table.add_row(request, *(_cell(cells.get((request, each))) for each in places))
        console.print(table)
    console.print(
        "A cell has the outcome, the median wait (> if that is only a lower bound), and the states "
        "and entries of the vCPUs before the request.",
        highlight=False,
        soft_wrap=True,
    )


def _cell(row: KeySummary | None) -> str:
    """Return the outcomes, the median wait and the vCPUs of a key: asleep > 5.0 s D gup."""
    if row is None:
        return "-"
    ended = [each for each in Outcome if row.outcomes[each]]
    number = f" {row.outcomes[ended[0]]}/{row.trials}" if row.trials > 1 else ""
    first = f"{ended[0]}{number}" if len(ended) == 1 else outcomes(row)
    usual = row.refused_median if ended == [Outcome.REFUSED] else row.median
    text = f"{first} {wait(usual)} {_seen(row, row.states)}".rstrip(" -")
    if row.failed:
        return f"[bold red]{text}[/]"
    return f"[yellow]{text}[/]" if row.outcomes[Outcome.LOST] else text


def recoveries(console: Console, rows: Sequence[Recoveries]) -> None:
    """Print a line for each key, and mark damage and failed recoveries.

    Guests are always recovered after stalls of storage, so those that are all whole share a line.
    """
    whole = [
        row for row in rows if row.key.scenario.family is Family.STORAGE and row.whole == row.asked
    ]
    apart = rows if len(whole) == 1 else [row for row in rows if row not in whole]
    for row in apart:
        parts = [f"{row.whole} of {row.asked} whole"]
        for event, ns in (
            ("the request answered after all", row.answered_ns),
            ("migration completed", row.completed_ns),
            ("next pass of every vCPU", row.next_pass_ns),
        ):
            if ns is not None:
                parts.append(f"{event} {duration(ns)}")
        text = f"recovered after {row.key.name}: {', '.join(parts)}"
        if row.failed:
            text = f"[bold red]{row.failed} of {row.asked} NOT RECOVERED[/]; {text}"
        if row.damaged:
            text = f"[bold red]{row.damaged} of {row.asked} DAMAGED[/]; {text}"
        console.print(text, highlight=False, soft_wrap=True)
    if len(whole) > 1:
        count = sum(row.asked for row in whole)
        console.print(
            f"memory whole after stalls of storage: {count} of {count} "
            f"{'trials' if len(whole) == len(rows) else 'other trials'}",
            highlight=False,
            soft_wrap=True,
        )


def _pace_line(pace: Pace) -> str:
    stages = ", ".join(f"{each.name} {each.median_ns / NS_PER_S:.3f}" for each in pace.stages)
    line = (
        f"{pace.place}: median {pace.median_ns / NS_PER_S:.2f} s per trial "
        f"(n = {pace.trials}); {stages}"
    )
    if pace.shape.vcpus > 1:
        parts = ", ".join(f"{each.name} {duration(each.median_ns)}" for each in pace.by_vcpu)
        line += f"; per vCPU: {parts}"
    return line
