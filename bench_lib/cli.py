"""The command line."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar

import click
import msgspec
from rich.console import Console

from bench_lib import deadline, present, record
from bench_lib.errors import KickbenchError, UnknownRequest, UnknownScenario
from bench_lib.record import Outcome, Record, Request, Scenario
from bench_lib.settings import Settings
from bench_lib.verdict import summary

Named = TypeVar("Named", bound=StrEnum)

LOST = 4
"""Exit status when a trial gave no measurement."""


def _named(kind: type[Named], name: str, error: type[KickbenchError]) -> Named:
    try:
        return kind(name)
    except ValueError:
        known = ", ".join(kind)
        raise error(f"There is no {kind.__name__.lower()} {name!r}; there is {known}.") from None


class _Group(click.Group):
    """Turns our errors into one sentence and their exit status."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KickbenchError as error:
            click.echo(f"kickbench: {error}", err=True)
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
    r"""When a guest is stuck, does the host still obey its operator?

    \b
    Examples:
      kickbench trial --scenario blackhole --request stop -n 8
      kickbench report
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
def trial_command(
    scenario: str, request: str, count: int, limit: str | None, as_json: bool
) -> None:
    r"""Run trials: strand a fresh guest in a scenario, make a request, time the answer.

    Every trial is also appended to the record file, which `kickbench report` sums up.

    \b
    Example:
      kickbench trial --scenario blackhole --request stop -n 8 --deadline 5

    Exits 0 when every trial gave a measurement, hung ones included, and 4 when one was lost.
    """
    # Here, for `report` should not need what trials need.
    from bench_lib.trial import batch

    settings = Settings.from_environment()
    if limit is not None:
        settings = dataclasses.replace(settings, deadline_s=deadline.seconds(limit))
    case = batch.Case(
        _named(Scenario, scenario, UnknownScenario), _named(Request, request, UnknownRequest)
    )
    stderr = Console(stderr=True)
    with present.progress(stderr, count, "trials") as done:

        def on_record(made: Record) -> None:
            done()
            if not as_json:
                click.echo(present.trial_line(made))

        records = batch.run(batch.interleaved([case], count), settings, on_record=on_record)
    if as_json:
        click.echo(record.to_json(records))
    sys.exit(LOST if _any_lost(records) else 0)


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


if __name__ == "__main__":
    main()
