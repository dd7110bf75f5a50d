# SPDX-License-Identifier: BSD-3-Clause
"""kickbench matrix."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection, Mapping, Sequence

import click
from rich.console import Console

from bench_lib import present, record
from bench_lib.cli import options
from bench_lib.cli.trials import exit_status, run
from bench_lib.kernel.names import BOOTED
from bench_lib.record import Family, ManagerName, Record, RequestName, ScenarioName, Shape
from bench_lib.settings import SETS, Settings
from bench_lib.trial import batch, case, preflight
from bench_lib.trial.case import AT_SWITCH, CORE_SCENARIOS, PV_IMAGES, Case
from bench_lib.trial.requests.description import offered_by
from bench_lib.verdict import summary

MATRIX_CORE = (
    *CORE_SCENARIOS,
    ScenarioName.PAUSED_TIMEOUT,
    ScenarioName.PAUSED_COMMAND,
    AT_SWITCH[0],
)
"""The scenarios of the family migration, and `idle`, that the set `core` has. The set has all
scenarios of other families."""

FAMILIES = tuple(each.value for each in Family if each is not Family.NONE)
"""The families that can be chosen. The others have no outage, and belong to every table."""


@click.command("matrix")
@click.option(
    "--set",
    "which",
    type=click.Choice(SETS),
    default="core",
    show_default=True,
    help="Which scenarios of the family migration to measure.",
)
@click.option(
    "--family",
    "families",
    type=click.Choice(FAMILIES),
    multiple=True,
    default=(Family.MIGRATION.value,),
    show_default=True,
    help="Whose scenarios to measure. Repeatable.",
)
@options.kernel("names", multiple=True, default=(BOOTED,))
@options.count(1)
@options.deadline()
@options.shape()
@options.manager()
@options.as_json()
def matrix(
    which: str,
    families: tuple[str, ...],
    names: tuple[str, ...],
    count: int,
    limit: str | None,
    shape: Shape,
    manager: ManagerName,
    as_json: bool,
) -> None:
    """Make every request in many scenarios.

    The result is one table per kernel. Each has the scenario idle and those of one family, or of
    several. The family migration is measured by default. Of its scenarios the core set has
    blackhole, paused, paused-timeout, paused-command and frozen-source, and the full set has all.
    With the image gup, scenarios in which the migration fails at the switch have further columns,
    for guests that share a page with KVM (pv-steal-time, pv-kvmclock). The family storage has
    scenarios in which the storage behind the guest's memory does not answer; both sets have all.

    `booted` is the kernel that this host runs; the lab boots the others. A request or a scenario
    that needs something that a kernel or this host lacks is left out, and a line on stderr gives
    the reason. A request that cannot be made in a scenario (cgroup-freeze in memory-high) is left
    out there.

    \b
    Examples:
      kickbench matrix
      kickbench matrix --kernel booted --kernel debian/6.1 --kernel debian/6.12
      kickbench matrix --set full -n 4 --json >matrix.json
      kickbench matrix --family storage
      kickbench matrix --manager libvirt
      kickbench matrix --image pv-steal-time --vcpus 4

    Exits like `kickbench trial`.
    """
    settings = options.with_deadline(Settings.from_environment(), limit)
    scenarios = chosen(which, families)
    labs = {name: name != BOOTED for name in names}
    cases = {lab: _cases(scenarios, shape, manager, lab=lab) for lab in sorted(set(labs.values()))}
    plan = [(name, case.interleaved(cases[lab], count)) for name, lab in labs.items()]
    total = sum(len(planned) for _, planned in plan)
    made: list[Record] = []
    with present.progress(Console(stderr=True), total, "trials") as done:

        def on_record(each: Record) -> None:
            done()
            made.append(each)
            click.echo(present.trial_line(each), err=True)

        try:
            run(plan, settings, on_record)
        finally:
            # If a run under one kernel fails, the results of the kernels before it are still shown.
            if as_json:
                click.echo(record.to_json(made))
            elif made:
                present.matrix(present.stdout(), summary.rows(made))
    sys.exit(exit_status(made))


def chosen(which: str, families: Collection[str]) -> list[ScenarioName]:
    """Return the scenarios that the options choose, in the order of tables.

    :param which: the set, `core` or `full`.
    """
    return [
        name
        for name in ScenarioName
        if (name.family is Family.NONE or name.family in families)
        and (which == "full" or name.family is Family.STORAGE or name in MATRIX_CORE)
    ]


def _cases(
    scenarios: Sequence[ScenarioName], shape: Shape, manager: ManagerName, *, lab: bool
) -> list[Case]:
    """Return the cases of one kernel, one of each kind. Print what is left out, and why.

    :param lab: whether the kernel runs in a lab on this host.
    :raise HostError: every scenario with an outage is left out.
    """
    places = [(scenario, shape) for scenario in _staged(scenarios, lab=lab)]
    if shape.image == Shape().image:
        places += [
            (scenario, dataclasses.replace(shape, image=image))
            for scenario, _ in places
            if scenario in AT_SWITCH
            for image in PV_IMAGES
        ]
    return [
        Case(scenario, request, guest, manager=manager)
        for request in _requests(manager, lab=lab)
        for scenario, guest in places
        if case.possible(scenario, request)
    ]


def _requests(manager: ManagerName, *, lab: bool) -> list[RequestName]:
    """Return the requests for which this host has everything. Print what it lacks for others."""
    offered = offered_by(manager)
    why = {name: preflight.lacking(name, manager, lab=lab) for name in offered}
    _report_left_out({name: each for name, each in why.items() if each is not None}, lab=lab)
    return [name for name in offered if why[name] is None]


def _staged(scenarios: Sequence[ScenarioName], *, lab: bool) -> list[ScenarioName]:
    """Return the scenarios that can be staged. Print why the others cannot.

    :raise HostError: only scenarios without an outage are left.
    """
    errors = {
        name: error
        for name in scenarios
        if (error := preflight.not_staged(name, lab=lab)) is not None
    }
    left = [name for name in scenarios if name not in errors]
    if errors and all(name.family is Family.NONE for name in left):
        raise next(iter(errors.values()))
    why = {name: str(error) for name, error in errors.items()}
    if not lab:
        why |= batch.unavailable(left, Settings.from_environment())
    _report_left_out(why, lab=lab)
    return [name for name in left if name not in why]


def _report_left_out(
    why: Mapping[ScenarioName, str] | Mapping[RequestName, str], *, lab: bool
) -> None:
    where = "in labs" if lab else "under the booted kernel"
    for name, reason in why.items():
        click.echo(f"kickbench: {name} is left out {where}: {reason}", err=True)
