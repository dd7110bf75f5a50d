# SPDX-License-Identifier: BSD-3-Clause
"""kickbench trial."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import click
from rich.console import Console

from bench_lib import present, process, record
from bench_lib.cli import kernels, options
from bench_lib.errors import (
    KickbenchError,
    LeftoversRemain,
    MemoryDamaged,
    TrialLost,
)
from bench_lib.kernel.names import BOOTED
from bench_lib.lab.trials import LabRunner
from bench_lib.lab.vm import Facts
from bench_lib.record import ManagerName, Outcome, Record, RequestName, ScenarioName, Shape
from bench_lib.settings import Settings
from bench_lib.trial import case
from bench_lib.trial.batch import NativeRunner
from bench_lib.trial.case import Case
from bench_lib.trial.runner import Runner
from bench_lib.verdict import summary


@click.command("trial")
@options.scenario(required=True)
@options.request(required=True)
@options.count(1)
@options.deadline()
@click.option(
    "--recover",
    is_flag=True,
    help="Recover the guest afterwards, and let it check its memory.",
)
@options.shape()
@click.option(
    "--boot",
    is_flag=True,
    help="Boot a Linux guest in each trial. By default it starts from a saved state.",
)
@options.then()
@options.manager()
@options.as_json()
@options.kernel(default=BOOTED)
def trial(
    scenario: ScenarioName,
    request: RequestName,
    count: int,
    limit: str | None,
    recover: bool,
    shape: Shape,
    boot: bool,
    then: RequestName | None,
    manager: ManagerName,
    as_json: bool,
    kernel: str,
) -> None:
    """Make a request to a stuck guest, and time the answer.

    Each trial starts a fresh guest, strands it in a scenario, makes the request once and appends a
    record to the record file, which `kickbench report` sums up. The lab boots the kernel, unless it
    is `booted`.

    \b
    Examples:
      kickbench trial --scenario blackhole --request stop -n 8 --deadline 5
      kickbench trial --scenario paused --request ctrl-c --kernel debian/6.1
      kickbench trial --scenario link-down --request stop --recover --vcpus 4
      kickbench trial --scenario frozen-source --request stop --image pv-kvmclock
      kickbench trial --scenario frozen-source --request stop --image linux \\
        --vcpus 2 --cpu host,kvm-steal-time=off --kernel debian/6.12
      kickbench trial --scenario paused --request stop --cpu qemu64,kvm-pv-eoi=off
      kickbench trial --manager libvirt --scenario idle --request virt-suspend
      kickbench trial --scenario frozen-source --request stop --then sigkill

    Exits 0 if every trial gave a measurement, which may be a hang, a refusal or QEMU's death; 4 if
    a trial or its second request was lost, or a guest could not be recovered; 5 if a guest found
    its memory damaged; 28 if a QEMU could not be ended.
    """
    settings = options.with_deadline(Settings.from_environment(), limit)
    wanted = Case(scenario, request, shape, recover, manager, then, boot)
    stderr = Console(stderr=True)
    with present.progress(stderr, count, "trials") as done:

        def on_record(made: Record) -> None:
            done()
            if not as_json:
                click.echo(present.trial_line(made))

        records = run([(kernel, case.interleaved([wanted], count))], settings, on_record)
    if as_json:
        click.echo(record.to_json(records))
    elif recover:
        present.recoveries(present.stdout(), summary.recoveries(records))
    sys.exit(exit_status(records))


def run(
    plan: Sequence[tuple[str, Sequence[Case]]],
    settings: Settings,
    on_record: Callable[[Record], None],
) -> list[Record]:
    """Run trials under one kernel after another: natively for `booted`, else in the lab.

    :param plan: the name of each kernel, and what is measured under it.
    :raise UnknownKernel: there is no such kernel; no trial was run.
    :raise MemoryDamaged: a guest found damage before another error ended the run.
    """
    made: list[Record] = []

    def kept(each: Record) -> None:
        made.append(each)
        on_record(each)

    def on_boot(facts: Facts) -> None:
        click.echo(f"kickbench: {facts}", err=True)

    # Find and fetch all kernels first, because the trials of one may take a quarter of an hour.
    kernels.fetch_guest(settings, [each for _, cases in plan for each in cases])
    builds = [None if name == BOOTED else kernels.bootable(settings, name) for name, _ in plan]
    try:
        for build, (_, cases) in zip(builds, plan, strict=True):
            runner: Runner = NativeRunner(settings)
            if build is not None:
                runner = LabRunner(build, settings, on_boot)
            runner.run(cases, kept)
    except KickbenchError as error:
        if report_damage(made):
            raise MemoryDamaged(str(error)) from None
        raise
    return made


def report_damage(records: Sequence[Record]) -> bool:
    """Print which guests found their memory damaged; return whether any did."""
    damaged = [each for each in records if each.damaged]
    for each in damaged:
        click.echo(
            f"kickbench: MEMORY DAMAGED: the guest of trial {each.seq} of run {each.run_id} "
            f"({each.key.name}) found a page changed. "
            f"{each.recovery.damage if each.recovery and each.recovery.damage else ''}".rstrip(),
            err=True,
        )
    return bool(damaged)


def report_survivors() -> bool:
    """Print which processes of kickbench could not be ended; return whether there are any."""
    survivors = process.survivors()
    if survivors:
        click.echo(
            f"kickbench: This could not be ended: {', '.join(map(str, survivors))}. "
            "Free what it waits for, then run `kickbench clean`.",
            err=True,
        )
    return bool(survivors)


def exit_status(records: Sequence[Record]) -> int:
    """The exit status of trials. If several apply, it is the one that is worst for the guests."""
    survivors = report_survivors()
    if report_damage(records):
        return MemoryDamaged.exit_status
    unknown = any(
        each.outcome is Outcome.LOST
        or (each.recovery and each.recovery.failure)
        or (each.then and each.then.outcome is Outcome.LOST)
        for each in records
    )
    if unknown:
        return TrialLost.exit_status
    return LeftoversRemain.exit_status if survivors else 0
