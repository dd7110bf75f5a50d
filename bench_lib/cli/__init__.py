# SPDX-License-Identifier: BSD-3-Clause
"""The command line."""

from __future__ import annotations

import logging

import click

from bench_lib import __version__
from bench_lib.cli import (
    completion,
    doctor,
    explain,
    fleet,
    gate,
    history,
    kernels,
    lab,
    matrix,
    probe,
    report,
    set_up,
    trials,
)
from bench_lib.errors import InternalError, KickbenchError, LabLost, LeftoversRemain
from bench_lib.settings import Settings, search_system_folders


class _Group(click.Group):
    """A group that turns an error into one sentence and an exit status.

    That includes a defect of kickbench, because Python's own status for an exception is 1, which
    is a verdict of `gate` and of `doctor`. Only -v prints the traceback.
    """

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KickbenchError as error:
            click.echo(f"kickbench: {error}", err=True)
            for line in error.console[-60:] if isinstance(error, LabLost) else ():
                click.echo(f"    {line}", err=True)
            trials.report_survivors()
            ctx.exit(error.exit_status)
        except KeyboardInterrupt:
            click.echo(
                "kickbench: Interrupted; `kickbench clean --dry-run` shows what is left.",
                err=True,
            )
            ctx.exit(130)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            # Every class is caught, so that no defect exits with the status of a verdict.
            logging.getLogger(__name__).debug("", exc_info=True)
            click.echo(f"kickbench: {InternalError.of(error)}", err=True)
            ctx.exit(InternalError.exit_status)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="kickbench %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Log every stage on stderr.")
def main(verbose: bool) -> None:
    """Find out whether the host still obeys its operator when a guest is stuck.

    \b
    Examples:
      kickbench set-up
      kickbench doctor
      kickbench explain
      kickbench trial --scenario blackhole --request stop -n 8
      kickbench matrix --kernel booted --kernel debian/6.1
      kickbench report
      kickbench gate debian/6.1 debian/6.12
      kickbench lab run debian/6.1 -- uname -a
      kickbench clean --dry-run

    Exit status: 0 success, 2 bad usage, 4 a trial was lost, 5 a guest found its memory damaged.
    docs/reference/exit-statuses.md lists the others. A sentence on stderr explains each failure.
    """
    search_system_folders()
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
        logging.getLogger("bench_lib").setLevel(logging.DEBUG)


@main.command("clean")
@click.option("--dry-run", is_flag=True, help="Print what would be ended, and end nothing.")
def clean_command(dry_run: bool) -> None:
    """End what killed runs left: processes, namespaces and folders.

    Incomplete states of Linux guests in the cache are deleted too. A run that is alive is not
    touched.

    \b
    Examples:
      kickbench clean --dry-run
      kickbench clean

    Exits 28 if something cannot be ended, and names it; everything else has been ended.
    """
    from bench_lib.trial import leftovers, linux_guests

    settings = Settings.from_environment()
    runtime = settings.runtime
    if not dry_run:
        linux_guests.delete_unfinished(settings.cache)
    try:
        found = leftovers.find(runtime) if dry_run else leftovers.end(runtime)
    except LeftoversRemain as error:
        for line in error.ended:
            click.echo(f"ended {line}")
        raise
    for line in found.lines():
        click.echo(f"{'would end' if dry_run else 'ended'} {line}")
    if not found.lines():
        click.echo("Nothing is left of any run.")


main.add_command(trials.trial)
main.add_command(matrix.matrix)
main.add_command(report.report)
main.add_command(probe.probe)
main.add_command(gate.gate)
main.add_command(doctor.doctor)
main.add_command(set_up.set_up)
main.add_command(explain.explain)
main.add_command(kernels.kernels)
main.add_command(lab.lab)
main.add_command(fleet.fleet)
main.add_command(history.history)
main.add_command(completion.completion)
