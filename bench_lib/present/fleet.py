# SPDX-License-Identifier: BSD-3-Clause
"""The fleet: tables of its hosts and campaigns for a terminal, and plain lines elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from bench_lib.fleet.status import CampaignStatus, FleetStatus, HostState
from bench_lib.fleet.work import Kind
from bench_lib.present import fleet_tables as tables
from bench_lib.present.words import count, span

MOST = 10
"""How many campaigns that have ended are shown on a terminal."""

FEW = 3
"""How many hosts are named that have the same note, if there are many."""

MOST_LIVE = 2
"""How many of them are shown where the terminal has to be enough for everything."""

ShowFleet = Callable[[FleetStatus, str | None], None]
"""Shows the fleet as it is now, and what is wrong with the connection; None if nothing is."""

ShowCampaign = Callable[[FleetStatus, CampaignStatus], None]
"""Shows a campaign and its hosts as they are now."""


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
                *tables.campaigns(console, status.campaigns, MOST_LIVE),
                *tables.refusals(console, status.refused),
                *_count_of_notes(status),
                *tables.hosts(console, status.hosts),
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
            parts = [*tables.campaigns(console, [campaign], 1), *tables.hosts(console, hosts)]
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
        text += f", {host.facts.kernel.release}, {' and '.join(tables.kinds(host)) or 'no'} work"
        text += f", {count(host.boots, 'boot')}, {host.lost} lost"
        if host.failures:
            text += f", {host.failures} failed in a row"
        yield ": ".join([text, *filter(None, ["; ".join(host.doing), host.reason])])
    for campaign in status.campaigns:
        yield f"campaign {campaign.id}: {campaign_line(campaign)}: {campaign.what}"
        yield from (f"campaign {campaign.id}: {each}" for each in tables.remarks(campaign))
    for refusal in status.refused:
        yield (
            f"refused {refusal.address}: {_times(refusal.times)}, last {refusal.last}: "
            f"{refusal.reason}"
        )
    yield from (f"note {name}: {text}" for name, text in _notes(status))


def _parts(console: Console, status: FleetStatus) -> Iterator[RenderableType]:
    """Yield the parts of the fleet for a terminal."""
    yield from map(Text, _heading(status))
    yield from tables.hosts(console, status.hosts)
    yield from tables.campaigns(console, status.campaigns, MOST)
    yield from tables.refusals(console, status.refused)
    # Hosts of a fleet are often alike, and then their doctors find the same.
    alike: dict[str, list[str]] = {}
    for name, text in _notes(status):
        alike.setdefault(text, []).append(name)
    for text, names in alike.items():
        yield Text.assemble((f"{_some(names)}: ", "bold"), (text, "yellow"))


def _count_of_notes(status: FleetStatus) -> Iterator[RenderableType]:
    """Yield how many notes there are, if there are any."""
    if number := len(list(_notes(status))):
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


def _notes(status: FleetStatus) -> Iterator[tuple[str, str]]:
    """Yield what is unusual about the coordinator and the hosts, with the name of each."""
    yield from (("coordinator", note) for note in status.notes)
    for host in status.hosts:
        for note in host.notes:
            yield host.facts.name, note
        for each in host.findings:
            yield host.facts.name, f"{each.name} {each.status}: {each.sentence}"


def _some(names: Sequence[str]) -> str:
    """Return names, of many only the first ones: alpha, beta, gamma and 47 others."""
    if len(names) <= FEW + 1:
        return ", ".join(names)
    return f"{', '.join(names[:FEW])} and {len(names) - FEW} others"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
