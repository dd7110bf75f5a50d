# SPDX-License-Identifier: BSD-3-Clause
"""Tables of the fleet's hosts, campaigns and refused connections, for terminals of any width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bench_lib.fleet.status import (
    CampaignState,
    CampaignStatus,
    HostState,
    HostStatus,
    Refusal,
)
from bench_lib.fleet.work import Kind
from bench_lib.present.words import count, span

ROOMY = 120
"""The width from which a table has a column for each value, in columns. In a narrower one some
values are below others."""

BAR = 14
"""The width of the bar of a campaign in columns."""

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


def hosts(console: Console, them: Sequence[HostStatus]) -> Iterator[RenderableType]:
    """Yield a table of hosts, and why some are set aside."""
    if not them:
        return
    roomy = console.width >= ROOMY
    table = _table()
    # Names that are cut short look alike, so a name that takes too much room is broken instead.
    whole = all(len(each.facts.name) <= console.width // 2 for each in them)
    table.add_column("host", no_wrap=whole, overflow="fold")
    for heading in ("kernel", "work", "state") if roomy else ("state",):
        table.add_column(heading, no_wrap=True)
    for heading in ("boots", "lost", "failed") if roomy else ("boots", "lost"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("does", overflow="fold", ratio=1)
    for each in them:
        failed = Text(str(each.failures), "red" if each.failures else "")
        numbers = [Text(str(each.boots)), Text(str(each.lost), "yellow" if each.lost else "")]
        named = [
            Text(each.facts.name, "bold"),
            Text(each.facts.kernel.release),
            Text(", ".join(kinds(each)) or "none"),
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
    for each in them:
        if each.reason is not None:
            name = (f"{each.facts.name} is {each.state}: ", HOST_STYLE[each.state])
            yield Text.assemble(name, each.reason)


def campaigns(
    console: Console, them: Sequence[CampaignStatus], most: int
) -> Iterator[RenderableType]:
    """Yield a table of campaigns, and what their operators should know.

    :param most: how many of those that have ended are shown, the last ones.
    """
    ended = [each for each in them if each.state is not CampaignState.RUNNING]
    older = ended[: max(0, len(ended) - most)]
    shown = [each for each in them if each not in older]
    if shown:
        yield (_wide_campaigns if console.width >= ROOMY else _narrow_campaigns)(shown)
    if older:
        yield Text(f"{count(len(older), 'older campaign')} not shown; --json has all.", "dim")
    for each in shown:
        for remark in remarks(each):
            yield Text.assemble((f"{each.id}: ", "bold"), (remark, "yellow"))


def _wide_campaigns(them: Sequence[CampaignStatus]) -> Table:
    table = _table()
    table.add_column("campaign", no_wrap=True)
    table.add_column("what", overflow="fold", ratio=1)
    table.add_column("boots", no_wrap=True)
    for heading in ("trials", "lost", "running", "left"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for each in them:
        table.add_row(
            Text(each.id, "bold"),
            Text(each.what),
            _done(each, f"{each.done} of {each.boots}"),
            str(each.trials),
            _lost(each),
            str(each.running),
            _left(each),
            _state(each),
        )
    return table


def _narrow_campaigns(them: Sequence[CampaignStatus]) -> Table:
    table = _table()
    table.add_column("campaign", overflow="fold", ratio=1)
    table.add_column("boots", no_wrap=True)
    for heading in ("lost", "left"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for each in them:
        running = f"\n{each.running} running" if each.running else ""
        table.add_row(
            Text.assemble((each.id, "bold"), f"\n{each.what}"),
            _done(each, f"{each.done} of {each.boots}\n{count(each.trials, 'trial')}"),
            _lost(each),
            _left(each),
            _state(each).append(running, "default"),
        )
    return table


def _done(campaign: CampaignStatus, text: str) -> Group:
    """Return a text above a bar. rich ends no line after a bar, so nothing can follow one."""
    bar = ProgressBar(total=campaign.boots, completed=campaign.done, width=BAR)
    return Group(Text(text), bar)


def _lost(campaign: CampaignStatus) -> Text:
    return Text(str(campaign.lost), "yellow" if campaign.lost else "")


def _left(campaign: CampaignStatus) -> str:
    return "-" if campaign.left_s is None else span(campaign.left_s)


def _state(campaign: CampaignStatus) -> Text:
    # The style is that of the state alone, and not of what is appended.
    return Text.assemble((campaign.state.value, CAMPAIGN_STYLE[campaign.state]))


def refusals(console: Console, them: Sequence[Refusal]) -> Iterator[RenderableType]:
    """Yield a table of refused connections."""
    if not them:
        return
    table = _table()
    table.add_column("refused", no_wrap=True)
    table.add_column("times", justify="right", no_wrap=True)
    table.add_column("last", no_wrap=console.width >= ROOMY, overflow="fold")
    table.add_column("because", overflow="fold", ratio=1)
    for each in them:
        table.add_row(Text(each.address), str(each.times), Text(each.last), Text(each.reason))
    yield table


def kinds(host: HostStatus) -> list[str]:
    """Return the kinds of work that a host does, with its room: host; lab x 4."""
    room = host.facts.room
    return [
        f"{each} x {room}" if each is Kind.LAB and room > 1 else each.value
        for each in host.facts.kinds
    ]


def remarks(campaign: CampaignStatus) -> list[str]:
    """Return what the operator of a campaign should know: why boots are missing, and warnings."""
    return [*(f"missing: {each}" for each in campaign.missing), *campaign.warnings]


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
