"""The command line."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click
import msgspec
from rich.console import Console

from bench_lib import deadline, present, record
from bench_lib.cli import kernels, lab
from bench_lib.cli.names import named
from bench_lib.errors import KickbenchError, LabLost, UnknownRequest, UnknownScenario
from bench_lib.record import Outcome, Record, Request, Scenario
from bench_lib.settings import Settings
from bench_lib.verdict import summary

if TYPE_CHECKING:
    from bench_lib.lab.machine import Facts
    from bench_lib.trial.batch import Case

LOST = 4
"""Exit status when a trial gave no measurement."""


class _Group(click.Group):
    """Turns our errors into one sentence and their exit status."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KickbenchError as error:
            click.echo(f"kickbench: {error}", err=True)
            for line in error.console[-60:] if isinstance(error, LabLost) else ():
                click.echo(f"    {line}", err=True)
            ctx.exit(error.exit_status)
        except KeyboardInterrupt:
            click.echo(
                "kickbench: Interrupted; `kickbench clean` shows whether anything is left.",
                err=True,
            )
            ctx.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kickbench", message="%(package)s %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Log every stage to stderr.")
def main(verbose: bool) -> None:
    """When a guest is stuck, does the host still obey its operator?

    \b
    Examples:
      kickbench trial --scenario blackhole --request stop -n 8
      kickbench report
      kickbench lab run debian/6.1 -- uname -a
      kickbench clean --dry-run

    Exit status: 0 fine, 2 bad usage, 4 a trial was lost, others as the sentence on stderr
    says (the README has the list).
    """
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
        logging.getLogger("bench_lib").setLevel(logging.DEBUG)


@main.command("trial")
@click.option("--scenario", required=True, metavar="NAME", help=f"One of {', '.join(Scenario)}.")
@click.option("--request", required=True, metavar="NAME", help=f"One of {', '.join(Request)}.")
@click.option("-n", "count", type=click.IntRange(min=1), default=1, help="How many; default 1.")
@click.option("--deadline", "limit", metavar="SECONDS", help="When a trial stops waiting.")
@click.option("--json", "as_json", is_flag=True, help="A JSON array of records, nothing else.")
@click.option("--kernel", metavar="NAME", help="Another kernel, in the lab; see `kernels --help`.")
def trial_command(
    scenario: str,
    request: str,
    count: int,
    limit: str | None,
    as_json: bool,
    kernel: str | None,
) -> None:
    """Run trials: strand a fresh guest in a scenario, make a request, time the answer.

    Every trial is also appended to the record file, which `kickbench report` sums up.

    \b
    Examples:
      kickbench trial --scenario blackhole --request stop -n 8 --deadline 5
      kickbench trial --scenario paused --request stop --kernel debian/6.1

    Exits 0 when every trial gave a measurement, hung ones included, and 4 when one was lost.
    """
    # Here, for `report` should not need what trials need.
    from bench_lib.trial import batch

    settings = Settings.from_environment()
    if limit is not None:
        settings = dataclasses.replace(settings, deadline_s=deadline.seconds(limit))
    case = batch.Case(
        named(Scenario, scenario, UnknownScenario), named(Request, request, UnknownRequest)
    )
    stderr = Console(stderr=True)
    with present.progress(stderr, count, "trials") as done:

        def on_record(made: Record) -> None:
            done()
            if not as_json:
                click.echo(present.trial_line(made))

        records = _run(batch.interleaved([case], count), settings, on_record, kernel)
    if as_json:
        click.echo(record.to_json(records))
    sys.exit(LOST if _any_lost(records) else 0)


def _run(
    cases: Sequence[Case],
    settings: Settings,
    on_record: Callable[[Record], None],
    kernel: str | None,
) -> list[Record]:
    """Under the booted kernel, or under another in the lab."""
    if kernel is None:
        from bench_lib.trial import batch

        return batch.run(cases, settings, on_record=on_record)
    from bench_lib.lab import trials

    def on_boot(facts: Facts) -> None:
        click.echo(f"kickbench: {facts}", err=True)

    build = kernels.bootable(settings, kernel)
    return trials.run(build, cases, settings, on_record=on_record, on_boot=on_boot)


def _any_lost(records: Sequence[Record]) -> bool:
    return any(each.outcome is Outcome.LOST for each in records)


@main.command("report")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def report_command(as_json: bool) -> None:
    """Sum up the records: a row per kernel, host, scenario and request.

    A median of "> 5.0 s" is a bound: the answer had not come by the deadline.
    """
    settings = Settings.from_environment()
    records, damaged = record.read(settings.records)
    for each in damaged:
        click.echo(f"kickbench: left out: {each}", err=True)
    rows, paces = summary.rows(records), summary.paces(records)
    if as_json:
        text = msgspec.json.encode({"rows": rows, "paces": paces})
        click.echo(msgspec.json.format(text, indent=2).decode())
    elif rows:
        present.report(present.stdout(), rows, paces)
    else:
        click.echo(f"No records yet in {settings.records}; `make bench` makes some.")


@main.command("clean")
@click.option("--dry-run", is_flag=True, help="Only say what there is.")
def clean_command(dry_run: bool) -> None:
    """End what killed runs have left: processes, network namespaces, folders.

    What belongs to a run that is alive is not touched.
    """
    from bench_lib.trial import leftovers

    runtime = Settings.from_environment().runtime
    found = leftovers.find(runtime) if dry_run else leftovers.end(runtime)
    for line in found.lines():
        click.echo(f"{'would end' if dry_run else 'ended'} {line}")
    if not found.lines():
        click.echo("Nothing is left of any run.")


main.add_command(kernels.kernels)
main.add_command(lab.lab)
