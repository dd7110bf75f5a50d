# SPDX-License-Identifier: BSD-3-Clause
"""kickbench lab: commands and campaigns under other kernels."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from bench_lib import interrupt, ownership, present, record
from bench_lib.cli import options
from bench_lib.cli.kernels import bootable, fetch_guest
from bench_lib.cli.names import completing_kernels
from bench_lib.cli.trials import report_damage
from bench_lib.errors import MemoryDamaged
from bench_lib.kernel.store import Bootable
from bench_lib.lab import campaign, trials, vm
from bench_lib.lab.qemu import SHARE
from bench_lib.lab.vm import Facts
from bench_lib.record import ManagerName, Record, RequestName, ScenarioName, Shape
from bench_lib.settings import Settings
from bench_lib.trial import case
from bench_lib.trial.case import CORE_SCENARIOS
from bench_lib.verdict import pace, summary


@click.group()
def lab() -> None:
    """Run commands and trials under another kernel.

    The lab is a virtual machine that boots a kernel and has the files of this host.

    \b
    Examples:
      kickbench lab run debian/6.1 -- uname -a
      kickbench lab campaign debian/6.1 debian/6.12 --boots 6
    """


@lab.command("run")
@click.argument("kernel", metavar="KERNEL", shell_complete=completing_kernels)
@click.argument("command", metavar="-- COMMAND...", nargs=-1, required=True)
@click.option(
    "--boots",
    type=click.IntRange(min=1),
    metavar="N",
    default=1,
    show_default=True,
    help="How often to boot the kernel and run the command.",
)
@click.option(
    "--share",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    help=f"A folder of this host that the command finds at {SHARE} and may write to.",
)
def run_command(kernel: str, command: tuple[str, ...], boots: int, share: Path | None) -> None:
    """Boot a kernel, and run a command under it.

    The command sees the files of this host and may change all of them. Its changes are discarded,
    except in the folder of --share.

    \b
    Examples:
      kickbench lab run debian/6.1 -- uname -a
      kickbench lab run debian/6.12 --boots 3 -- sh -c 'cat /proc/uptime'

    Exits with the status of the command; with several boots, with the first status that is not 0.
    """
    settings = Settings.from_environment()
    build = bootable(settings, kernel)
    statuses = []
    with ownership.measuring(settings.runtime) as owner:
        for _ in range(boots):
            folder = share or owner.folder / "share"
            folder.mkdir(exist_ok=True)
            statuses.append(interrupt.run(_run(owner, build, command, settings, folder)))
    sys.exit(next((status for status in statuses if status), 0))


@lab.command("campaign")
@click.argument(
    "names", metavar="KERNEL...", nargs=-1, required=True, shell_complete=completing_kernels
)
@click.option(
    "--boots",
    type=click.IntRange(min=1),
    metavar="N",
    default=6,
    show_default=True,
    help="How often to boot each kernel.",
)
@options.count(2)
@options.scenario("scenarios", multiple=True, default=[each.value for each in CORE_SCENARIOS])
@options.request(default=RequestName.STOP.value)
@options.shape()
@options.manager()
@options.jobs()
@click.option(
    "--name",
    metavar="TEXT",
    default="",
    help="A name that distinguishes a campaign from others with the same kernels and options.",
)
def campaign_command(
    names: tuple[str, ...],
    boots: int,
    count: int,
    scenarios: tuple[ScenarioName, ...],
    request: RequestName,
    shape: Shape,
    manager: ManagerName,
    jobs: int | None,
    name: str,
) -> None:
    """Measure kernels over several boots each.

    Trials of one boot are not independent, so the gate counts boots. They are interleaved (A B,
    B A, B A, A B). If a campaign is interrupted, the same command continues it: whole boots are
    kept, and the others are made again.

    \b
    Examples:
      kickbench lab campaign debian/6.1 debian/6.12 --boots 6
      kickbench lab campaign debian/6.1 debian/6.12 --scenario frozen-source
      kickbench lab campaign debian/6.1 debian/6.12 --vcpus 4 --memory 64
    """
    settings = options.with_jobs(Settings.from_environment(), jobs)
    cases = case.interleaved(
        [case.Case(scenario, request, shape, manager=manager) for scenario in scenarios], count
    )
    fetch_guest(settings, cases)
    plan = campaign.Campaign([bootable(settings, each) for each in names], boots, cases, name)
    total = boots * len(names)
    missing = len(plan.missing(record.read(settings.records)[0]))
    click.echo(f"campaign {plan.id}: {total - missing} of {total} boots are recorded", err=True)
    with present.progress(Console(stderr=True), missing * len(cases), "trials") as done:

        def on_record(made: Record) -> None:
            done()
            click.echo(present.trial_line(made))

        def on_boot(facts: Facts) -> None:
            click.echo(str(facts))

        campaign.run(plan, settings, on_record, on_boot)
    mine = plan.made(record.read(settings.records)[0])
    present.report(
        present.stdout(), summary.rows(mine), pace.paces(mine), summary.differences(mine)
    )
    if report_damage(mine):
        sys.exit(MemoryDamaged.exit_status)


async def _run(
    owner: ownership.Run,
    build: Bootable,
    command: tuple[str, ...],
    settings: Settings,
    share: Path,
) -> int:
    async with vm.booted(owner, build, settings, share) as booted:
        click.echo(f"kickbench: {booted.facts}", err=True)

        def on_output(stream: str, data: bytes) -> None:
            to = sys.stdout.buffer if stream == "out" else sys.stderr.buffer
            to.write(data)
            to.flush()

        env = trials.environment(settings, booted)
        status = await booted.run(command, env, Path.cwd(), on_output)
    return status if status >= 0 else 128 - status
