# SPDX-License-Identifier: BSD-3-Clause
"""kickbench fleet campaign."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
import msgspec
from rich.console import Console

from bench_lib import deadline, interrupt, present, record
from bench_lib.cli import options
from bench_lib.cli.fleet import following, planning
from bench_lib.cli.fleet import options as fleet_options
from bench_lib.cli.kernels import bootable
from bench_lib.cli.names import completing_kernels
from bench_lib.cli.trials import report_damage
from bench_lib.errors import (
    CampaignIncomplete,
    FleetUnreachable,
    Interrupted,
    MemoryDamaged,
    UsageError,
)
from bench_lib.fleet import campaigns
from bench_lib.fleet.plan import Plan
from bench_lib.fleet.progress import Progress, listed
from bench_lib.fleet.status import CampaignState, CampaignStatus, FleetStatus
from bench_lib.fleet.work import Kind
from bench_lib.record import ManagerName, Record, RequestName, ScenarioName, Shape
from bench_lib.settings import Settings
from bench_lib.trial import case
from bench_lib.trial.case import CORE_SCENARIOS
from bench_lib.verdict import pace, summary

BOOTS = 6
"""How often each kernel is booted by default, where the fleet itself can do it."""


@click.command("campaign")
@click.argument(
    "names", metavar="KERNEL...", nargs=-1, required=True, shell_complete=completing_kernels
)
@click.option(
    "--work",
    "kind",
    type=click.Choice([each.value for each in Kind]),
    default=Kind.LAB.value,
    show_default=True,
    callback=lambda context, parameter, value: Kind(value),
    help="Measure in labs, or under the kernel that a host has booted.",
)
@click.option(
    "--boots",
    type=click.IntRange(min=1),
    metavar="N",
    show_default=f"{BOOTS}; 1 for host work without --reboot",
    help="How often each host boots each kernel.",
)
@options.count(2)
@options.scenario("scenarios", multiple=True, default=[each.value for each in CORE_SCENARIOS])
@options.request(default=RequestName.STOP.value)
@options.deadline()
@options.shape(work="--guest-work")
@options.manager()
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    show_default="all that are in use and can do this work",
    help="A host that makes all boots. Repeatable.",
)
@click.option(
    "--anywhere",
    is_flag=True,
    help="Make each boot only once, on any host with room.",
)
@click.option(
    "--reboot", is_flag=True, help="Boot hosts into the kernels that are installed on them."
)
@click.option(
    "--patience",
    metavar="SECONDS",
    default="600",
    show_default=True,
    help="How long to wait for a host that is away, or for the coordinator.",
)
@click.option(
    "--name",
    metavar="TEXT",
    default="",
    help="A name that distinguishes a campaign from others with the same kernels and options.",
)
@options.as_json()
@fleet_options.coordinator()
def campaign(
    names: tuple[str, ...],
    kind: Kind,
    boots: int | None,
    count: int,
    scenarios: tuple[ScenarioName, ...],
    request: RequestName,
    limit: str | None,
    shape: Shape,
    manager: ManagerName,
    hosts: tuple[str, ...],
    anywhere: bool,
    reboot: bool,
    patience: str,
    name: str,
    as_json: bool,
    settings: Settings,
) -> None:
    """Measure kernels over several boots each, on many hosts.

    Every host makes all boots, because results of different hosts are never combined. With
    --anywhere, any host with room makes each boot, which is good only for hosts that are alike.

    Host work needs a host that has booted the kernel. Without --reboot, boot the hosts yourself;
    one boot of a host counts once. `booted` means the kernel that all hosts run.

    The campaign goes on in the fleet if this command ends. The same command with the same hosts
    follows it again, and makes boots that are missing. `kickbench fleet cancel` ends it.

    \b
    Examples:
      kickbench fleet campaign debian/6.1 debian/6.12 --boots 6
      kickbench fleet campaign booted --work host --host node1 --host node2
      kickbench fleet campaign 6.1.0-41-amd64 6.12.94+deb13-amd64 --work host \\
        --reboot --boots 4
      kickbench fleet campaign debian/6.1 debian/6.12 --anywhere --boots 20 --json

    Exits 0 if every boot was made, 78 if boots are missing, 5 if a guest found its memory damaged.
    """
    _check(kind, hosts, anywhere=anywhere, reboot=reboot)
    settings = options.with_deadline(settings, limit)
    cases = case.interleaved(
        [case.Case(each, request, shape, manager=manager) for each in scenarios], count
    )
    patience_s = deadline.seconds(patience)
    fleet = interrupt.run(campaigns.status(settings))
    chosen = [] if anywhere else planning.hosts(fleet, kind, hosts)
    if reboot:
        planning.check_reboots(chosen)
    facts = [each.facts for each in chosen or planning.able_to(fleet, kind)]
    plan = Plan(
        kind=kind,
        kernels=tuple(
            planning.kernels(
                settings, names, kind, facts, lambda wanted: bootable(settings, wanted).build
            )
        ),
        cases=tuple(cases),
        boots=boots or (1 if kind is Kind.HOST and not reboot else BOOTS),
        hosts=tuple(each.facts.name for each in chosen),
        reboot=reboot,
        patience_s=patience_s,
        settings=campaigns.settings_for_hosts(settings),
        name=name,
    )
    for remark in planning.remarks(chosen):
        click.echo(f"kickbench: {remark}", err=True)
    ended, made = _follow(settings, plan, as_json=as_json, named=bool(hosts))
    if as_json:
        click.echo(to_json(plan, ended, made))
    else:
        present.report(
            present.stdout(), summary.rows(made), pace.paces(made), summary.differences(made)
        )
    damaged = report_damage(made)
    if ended.state is not CampaignState.COMPLETE:
        error = CampaignIncomplete(_why_incomplete(ended))
        if not damaged:
            raise error
        click.echo(f"kickbench: {error}", err=True)
    if damaged:
        sys.exit(MemoryDamaged.exit_status)


def to_json(plan: Plan, ended: CampaignStatus, made: Sequence[Record]) -> str:
    """A campaign that has ended, as an object with its hosts, its kernels and its records."""
    whole = {
        **msgspec.to_builtins(ended),
        "hosts": plan.hosts,
        "kernels": plan.kernels,
        "records": msgspec.Raw(record.to_json(made).encode()),
    }
    return msgspec.json.encode(whole).decode()


def _check(kind: Kind, hosts: Sequence[str], *, anywhere: bool, reboot: bool) -> None:
    """Refuse options that contradict one another.

    :raise UsageError: they do.
    """
    if anywhere and kind is not Kind.LAB:
        raise UsageError(
            "Host work is bound to hosts, so --anywhere applies only to --work lab; leave it out, "
            "and every host makes all boots."
        )
    if anywhere and hosts:
        raise UsageError("Give either --host or --anywhere.")
    if reboot and kind is not Kind.HOST:
        raise UsageError("Labs need no reboot of a host; leave out --reboot, or give --work host.")


def _follow(
    settings: Settings, plan: Plan, *, as_json: bool, named: bool
) -> tuple[CampaignStatus, list[Record]]:
    """Follow a campaign. If this ends before the campaign does, print what can be done then.

    :param named: whether the user has named the hosts.
    """
    connect = functools.partial(campaigns.connected, settings)
    with _watching(plan, as_json=as_json) as watcher:
        try:
            return interrupt.run(following.follow(connect, plan, watcher))
        except (Interrupted, FleetUnreachable) as error:
            if not watcher.has_begun:
                raise
            failure = error
    if isinstance(failure, FleetUnreachable):
        click.echo(f"kickbench: {failure}", err=True)
    click.echo(f"kickbench: {_how_to_go_on(plan, named=named)}", err=True)
    sys.exit(failure.exit_status)


def _how_to_go_on(plan: Plan, *, named: bool) -> str:
    """Return what a user can do whose command has ended before the campaign."""
    hosts = "" if named else "".join(f" --host {shlex.quote(each)}" for each in plan.hosts)
    # The hosts that are in use may be others by then, and the campaign would be another.
    again = f"Repeat the command with{hosts}" if hosts else "Repeat the command"
    return (
        f"Campaign {plan.id} goes on in the fleet. {again} to follow it; `kickbench fleet cancel "
        f"{plan.id}` ends it."
    )


class _Lines:
    """Prints a line for each trial.

    :ivar has_begun: whether the coordinator has the campaign.
    """

    needs_fleet = False

    def __init__(self, plan: Plan, *, err: bool) -> None:
        """:param err: whether lines go to stderr instead of stdout."""
        self._plan = plan
        self._err = err
        self._warned: set[str] = set()
        self.has_begun = False

    def begun(self, campaign: CampaignStatus) -> None:
        self.has_begun = True
        where = f"on {listed(self._plan.hosts)}" if self._plan.hosts else "on any host"
        click.echo(
            f"campaign {campaign.id}: {campaign.what} {where}; recorded: {campaign.done} of "
            f"{present.count(campaign.boots, 'boot')}",
            err=True,
        )

    def fleet(self, status: FleetStatus) -> None:
        """Show nothing: a file gets only what has become of trials."""

    def news(self, progress: Progress) -> None:
        for each in map(record.from_line, progress.lines):
            where = f"{each.host.machine} {each.kernel.release}"
            click.echo(f"{where} {present.trial_line(each)}", err=self._err)
        if progress.lines or progress.status.state is not CampaignState.RUNNING:
            click.echo(present.campaign_line(progress.status), err=True)
        for warning in progress.status.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                click.echo(f"kickbench: {warning}", err=True)

    def broken(self, error: FleetUnreachable) -> None:
        click.echo(
            f"kickbench: {error} The campaign goes on; trying for "
            f"{present.span(self._plan.patience_s)} to follow it again.",
            err=True,
        )


class _Table(_Lines):
    """Shows the campaign and what each host does, in tables that change in place."""

    needs_fleet = True

    def __init__(self, plan: Plan, show: present.ShowCampaign) -> None:
        super().__init__(plan, err=True)
        self._show = show

    def fleet(self, status: FleetStatus) -> None:
        for each in status.campaigns:
            if each.id == self._plan.id:
                self._show(status, each)

    def news(self, progress: Progress) -> None:
        """Show nothing: the table has it soon."""


@contextmanager
def _watching(plan: Plan, *, as_json: bool) -> Iterator[_Lines]:
    """Show the campaign in tables on a terminal, and elsewhere in lines."""
    console = Console(stderr=True) if as_json else present.stdout()
    if not console.is_terminal:
        yield _Lines(plan, err=as_json)
        return
    with present.campaign_live(console, plan.hosts) as show:
        yield _Table(plan, show)


def _why_incomplete(ended: CampaignStatus) -> str:
    if ended.state is CampaignState.CANCELLED:
        return (
            f"Campaign {ended.id} was cancelled with {ended.done} of "
            f"{present.count(ended.boots, 'boot')}; the same command goes on with it."
        )
    return (
        f"Campaign {ended.id} ended with {ended.done} of {present.count(ended.boots, 'boot')}; the "
        f"same command makes the others. {' '.join(ended.missing)}"
    ).rstrip()
