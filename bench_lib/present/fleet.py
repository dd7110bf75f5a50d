# SPDX-License-Identifier: BSD-3-Clause
"""The fleet: tables of its hosts and campaigns for a terminal, and plain lines elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bench_lib.fleet.status import (
    CampaignState,
    CampaignStatus,
    FleetStatus,
    HostState,
    HostStatus,
    Refusal,
)
from bench_lib.fleet.work import Kind
from bench_lib.present.words import count, span

ROOMY = 120
"""The width from which a table has a column for each value, in columns. In a narrower one the
values that name a row are below one another."""

BAR = 14
"""The width of the bar of a campaign in columns."""

ShowFleet = Callable[[FleetStatus, str | None], None]
"""Shows the fleet as it is now, and what is wrong with the connection; None if nothing is."""

ShowCampaign = Callable[[FleetStatus, CampaignStatus], None]
"""Shows a campaign and its hosts as they are now."""

HOST_STYLE = {
    HostState.EXAMINED: "cyan",
    HostState.READY: "green",
    HostState.WORKING: "bold green",
    HostState.REBOOTING: "cyan",
    HostState.AWAY: "yellow",
    HostState.DRAINED: "yellow",
    HostState.SET_ASIDE: "bold red",
}

CAMPAIGN_STYLE = {
    CampaignState.RUNNING: "cyan",
    CampaignState.COMPLETE: "green",
    CampaignState.INCOMPLETE: "bold red",
    CampaignState.CANCELLED: "yellow",
}


def fleet_status(console: Console, status: FleetStatus) -> None:
    """Print the fleet: tables on a terminal, and elsewhere a line for each fact."""
    if console.is_terminal:
        for part in _parts(console, status):
            console.print(part)
        return
    for line in _lines(status):
        console.print(Text(line), soft_wrap=True)


@contextmanager
def fleet_live(console: Console) -> Iterator[ShowFleet]:
    """Show tables of the fleet that change in place.

    It yields a function to call with each new status, and with what is wrong with the connection.
    The hosts come last, because a terminal that is too low for everything shows only the first
    lines. What doctors found is only counted. What was shown last stays on the terminal.
    """
    with Live(console=console, auto_refresh=False) as live:

        def show(status: FleetStatus, problem: str | None) -> None:
            parts = [
                *map(Text, _heading(status)),
                *_campaigns(console, status.campaigns),
                *_refusals(console, status.refused),
                *_count_of_notes(status.hosts),
                *_hosts(console, status.hosts),
            ]
            if problem is not None:
                parts.insert(0, Text(problem, "bold red"))
            live.update(Group(*parts), refresh=True)

        yield show


@contextmanager
def campaign_live(console: Console, names: Collection[str]) -> Iterator[ShowCampaign]:
    """Show a campaign, and what each of its hosts does, in tables that change in place.

    It yields a function to call with each new status. The tables are removed at the end.

    :param names: the hosts of the campaign; empty for all that do labs.
    """
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(status: FleetStatus, campaign: CampaignStatus) -> None:
            hosts = [
                each
                for each in status.hosts
                if (each.facts.name in names if names else Kind.LAB in each.facts.kinds)
            ]
            parts = [*_campaigns(console, [campaign]), *_hosts(console, hosts)]
            live.update(Group(*parts), refresh=True)

        yield show


def campaign_line(each: CampaignStatus) -> str:
    """Return how far a campaign is: running, 5 of 24 boots, 30 trials, 1 lost, 12 min left."""
    parts = [
        each.state.value,
        f"{each.done} of {count(each.boots, 'boot')}",
        count(each.trials, "trial"),
        f"{each.lost} lost",
    ]
    if each.running:
        parts.append(f"{each.running} running")
    if each.left_s is not None and each.done < each.boots:
        parts.append(f"{span(each.left_s)} left")
    return ", ".join(parts)


def _lines(status: FleetStatus) -> Iterator[str]:
    """Yield the lines of the fleet for a file."""
    yield from _heading(status)
    for host in status.hosts:
        text = f"host {host.facts.name}: {host.state} for {span(host.since_s)}"
        text += f", {host.facts.kernel.release}, {' and '.join(_kinds(host)) or 'no'} work"
        text += f", {count(host.boots, 'boot')}, {host.lost} lost"
        if host.failures:
            text += f", {host.failures} failed in a row"
        yield ": ".join([text, *filter(None, ["; ".join(host.doing), host.reason])])
    for campaign in status.campaigns:
        yield f"campaign {campaign.id}: {campaign_line(campaign)}: {campaign.what}"
        yield from (f"campaign {campaign.id}: {each}" for each in _remarks(campaign))
    for refusal in status.refused:
        yield (
            f"refused {refusal.address}: {_times(refusal.times)}, last {refusal.last}: "
            f"{refusal.reason}"
        )
    yield from (f"note {name}: {text}" for name, text in _notes(status.hosts))


def _parts(console: Console, status: FleetStatus) -> Iterator[RenderableType]:
    """Yield the parts of the fleet for a terminal."""
    yield from map(Text, _heading(status))
    yield from _hosts(console, status.hosts)
    yield from _campaigns(console, status.campaigns)
    yield from _refusals(console, status.refused)
    # Hosts of a fleet are often alike, and then their doctors find the same.
    alike: dict[str, list[str]] = {}
    for name, text in _notes(status.hosts):
        alike.setdefault(text, []).append(name)
    for text, names in alike.items():
        yield Text.assemble((f"{', '.join(names)}: ", "bold"), (text, "yellow"))


def _count_of_notes(hosts: Iterable[HostStatus]) -> Iterator[RenderableType]:
    """Yield how many notes there are, if there are any."""
    if number := len(list(_notes(hosts))):
        yield Text(f"{count(number, 'note')}; `kickbench fleet status` shows them.", "yellow")


def _heading(status: FleetStatus) -> list[str]:
    states = Counter(each.state for each in status.hosts)
    hosts = ", ".join(f"{states[each]} {each}" for each in HostState if states[each])
    lines = [
        f"coordinator {status.address}, kickbench {status.kickbench}, since {status.started}",
        f"records: {status.records}",
        f"{count(len(status.hosts), 'host')}{f': {hosts}' if hosts else ''}",
    ]
    return lines if status.dashboard is None else [*lines, f"dashboard: {status.dashboard}"]


def _hosts(console: Console, hosts: Sequence[HostStatus]) -> Iterator[RenderableType]:
    """Yield a table of hosts, and why some are set aside."""
    if not hosts:
        return
    roomy = console.width >= ROOMY
    table = _table()
    # Names that are cut short look alike, so a name that takes too much room is broken instead.
    whole = all(len(each.facts.name) <= console.width // 2 for each in hosts)
    table.add_column("host", no_wrap=whole, overflow="fold")
    for heading in ("kernel", "work", "state") if roomy else ("state",):
        table.add_column(heading, no_wrap=True)
    for heading in ("boots", "lost", "failed") if roomy else ("boots", "lost"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("does", overflow="fold", ratio=1)
    for each in hosts:
        failed = Text(str(each.failures), "red" if each.failures else "")
        numbers = [Text(str(each.boots)), Text(str(each.lost), "yellow" if each.lost else "")]
        named = [
            Text(each.facts.name, "bold"),
            Text(each.facts.kernel.release),
            Text(", ".join(_kinds(each)) or "none"),
        ]
        state = [Text(each.state, HOST_STYLE[each.state]), Text(span(each.since_s), "dim")]
        if not roomy and each.failures:
            state.append(failed.append(" failed"))
        table.add_row(
            *(named if roomy else [Text("\n").join(named)]),
            Text(" " if roomy else "\n").join(state),
            *([*numbers, failed] if roomy else numbers),
            Text("\n".join(each.doing) or "-"),
        )
    yield table
    for each in hosts:
        if each.reason is not None:
            name = (f"{each.facts.name} is {each.state}: ", HOST_STYLE[each.state])
            yield Text.assemble(name, each.reason)


def _campaigns(console: Console, campaigns: Sequence[CampaignStatus]) -> Iterator[RenderableType]:
    """Yield a table of campaigns, and what their operators should know."""
    if not campaigns:
        return
    roomy = console.width >= ROOMY
    table = _table()
    table.add_column("campaign", no_wrap=True)
    if roomy:
        table.add_column("what", overflow="fold", ratio=1)
    table.add_column("boots", no_wrap=True)
    for heading in ("trials", "lost", "running", "left"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for each in campaigns:
        done = Text(f"{each.done} of {each.boots}")
        table.add_row(
            Text(each.id, "bold"),
            *([Text(each.what)] if roomy else []),
            Group(done, ProgressBar(total=each.boots, completed=each.done, width=BAR)),
            str(each.trials),
            Text(str(each.lost), "yellow" if each.lost else ""),
            str(each.running),
            "-" if each.left_s is None else span(each.left_s),
            Text(each.state, CAMPAIGN_STYLE[each.state]),
        )
    yield table
    for each in campaigns:
        if not roomy:
            yield Text.assemble((f"{each.id}: ", "bold"), each.what)
        for remark in _remarks(each):
            yield Text.assemble((f"{each.id}: ", "bold"), (remark, "yellow"))


def _refusals(console: Console, refused: Sequence[Refusal]) -> Iterator[RenderableType]:
    """Yield a table of refused connections."""
    if not refused:
        return
    table = _table()
    table.add_column("refused", no_wrap=True)
    table.add_column("times", justify="right", no_wrap=True)
    table.add_column("last", no_wrap=console.width >= ROOMY, overflow="fold")
    table.add_column("because", overflow="fold", ratio=1)
    for each in refused:
        table.add_row(Text(each.address), str(each.times), Text(each.last), Text(each.reason))
    yield table


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _kinds(host: HostStatus) -> list[str]:
    """Return the kinds of work that a host does, with its room: host; lab x 4."""
    room = host.facts.room
    return [
        f"{each} x {room}" if each is Kind.LAB and room > 1 else each.value
        for each in host.facts.kinds
    ]


def _remarks(campaign: CampaignStatus) -> list[str]:
    return [*(f"missing: {each}" for each in campaign.missing), *campaign.warnings]


def _notes(hosts: Iterable[HostStatus]) -> Iterator[tuple[str, str]]:
    """Yield what is unusual about hosts, with the name of the host."""
    for host in hosts:
        for note in host.notes:
            yield host.facts.name, note
        for each in host.findings:
            yield host.facts.name, f"{each.name} {each.status}: {each.sentence}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
