# SPDX-License-Identifier: BSD-3-Clause
"""kickbench gate: whether one kernel may be rolled out after another."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from bench_lib import deadline, present, record
from bench_lib.cli import options, until_settled
from bench_lib.cli.names import completing_kernels, named
from bench_lib.errors import (
    CannotCompare,
    KernelError,
    KickbenchError,
    StoreError,
    UnknownRequest,
    UsageError,
)
from bench_lib.kernel.ledger import describe
from bench_lib.kernel.names import BOOTED, meant
from bench_lib.kernel.suites import Suites
from bench_lib.record import Kernel, Record, RequestName
from bench_lib.settings import Settings
from bench_lib.units import NS_PER_S
from bench_lib.verdict import gate as judging
from bench_lib.verdict import junit, summary
from bench_lib.verdict.comparison import Verdict
from bench_lib.verdict.gate import Gate
from bench_lib.verdict.terms import DEFAULT_TERMS

STATUS = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 2}


class _Command(click.Command):
    """A command whose bad usage exits with 3, because 0 to 2 are verdicts. click's own is 2."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        try:
            return super().make_context(*args, **options)
        except click.UsageError as error:
            raise CannotCompare(error.format_message()) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise CannotCompare(error.format_message()) from None
        except (UsageError, KernelError, StoreError) as error:
            raise CannotCompare(str(error)) from None


@click.command("gate", cls=_Command)
@click.argument("base", metavar="BASE", shell_complete=completing_kernels)
@click.argument("candidate", metavar="CANDIDATE", shell_complete=completing_kernels)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=1, min_open=True, max=1000),
    default=DEFAULT_TERMS.tolerance,
    show_default=True,
    help="The factor by which answers of CANDIDATE may take longer.",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="REQUEST=SECONDS",
    show_default="stop=1",
    help="The longest time that a request may take; `stop=none` for no limit. Repeatable.",
)
@click.option(
    "--whatever-differs",
    is_flag=True,
    help="Compare records even if hosts, QEMUs or settings differ, but never native with lab.",
)
@click.option(
    "--boots-until-settled",
    "most_boots",
    type=click.IntRange(min=1),
    metavar="MAX",
    help="Boot both in the lab until the verdict is pass or fail, at most MAX times each.",
)
@click.option(
    "--fleet",
    "address",
    metavar="HOST[:PORT]",
    help="With --boots-until-settled: boot in labs of all hosts of the fleet of this coordinator.",
)
@click.option(
    "--certificates",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    show_default="KICKBENCH_CERTIFICATES, or /etc/kickbench/fleet",
    help="With --fleet: the folder of this user's certificate.",
)
@options.jobs()
@options.as_json()
@click.option(
    "--junit",
    "report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the verdicts to this file, as JUnit XML.",
)
def gate(
    base: str,
    candidate: str,
    tolerance: float,
    limits: tuple[str, ...],
    whatever_differs: bool,
    most_boots: int | None,
    address: str | None,
    certificates: Path | None,
    jobs: int | None,
    as_json: bool,
    report: Path | None,
) -> None:
    """Judge whether CANDIDATE may be rolled out after BASE.

    `pass` needs evidence in the records that CANDIDATE is not worse. Without enough evidence the
    verdict is `inconclusive`. The gate compares boots, so it needs several boots of each kernel;
    `kickbench lab campaign` makes them. Under emulation (tcg) the gate judges hangs but not
    milliseconds, and limits are ten times as long.

    \b
    Examples:
      kickbench gate 6.1.0-55-amd64 6.1.0-56-amd64
      kickbench gate debian/6.1 debian/6.12 --limit stop=0.5s --tolerance 1.1
      kickbench gate 6.12.113+deb12-amd64 6.12.117+deb12-amd64 --junit gate.xml
      kickbench gate debian/6.1 debian/6.12 --boots-until-settled 20
      kickbench gate debian/6.1 debian/6.12 --boots-until-settled 20 --fleet lab1

    If several hosts have records, each is judged by itself: the candidate fails if it fails on one
    of them, and passes if it passes on all.

    With --fleet, every host that is ready boots both kernels, and the coordinator's records of
    these hosts are judged. KICKBENCH_FLEET alone does not do that: without --fleet, this host
    boots them.

    BASE and CANDIDATE are kernels with records: a release, its tag (v...), the newest of a stream
    (debian/6.1), or `booted`. With --boots-until-settled they may also be kernels without records.
    A stream then means its newest kernel with records; if it has none, the newest in the cache,
    and then the newest that apt offers. The gate prints which release a name meant.

    Exits 0 on pass, 1 on fail, 2 if inconclusive, 3 if the two cannot be compared.
    """
    if not math.isfinite(tolerance):
        raise click.BadParameter("nan is not a factor.", param_hint="--tolerance")
    terms = dataclasses.replace(DEFAULT_TERMS, tolerance=tolerance, limits_ns=_limits(limits))
    settings = options.with_jobs(Settings.from_environment(), jobs)
    if jobs is not None and most_boots is None:
        raise click.UsageError("--jobs applies only to --boots-until-settled; give both options.")
    if address is not None:
        _check_fleet(address, most_boots, jobs, whatever_differs=whatever_differs)
        settings = dataclasses.replace(
            settings, fleet=address, certificates=certificates or settings.certificates
        )
    if report is not None:
        # Written before the work, which may take hours and may be killed.
        _write(report, junit.refusal(base, candidate, "There is no verdict yet."))
    try:
        records, damaged = _read(settings.records)

        names = base, candidate
        if most_boots is None:
            ours, theirs = kernels = [known(settings, name, records) for name in names]
            until_settled.print_releases(names, kernels)
            found = judging.compare(
                records, ours, theirs, terms, whatever_differs=whatever_differs, unread=damaged
            )
        else:
            builds = until_settled.builds(settings, names, records)
            if address is None:
                found = until_settled.in_lab(
                    settings,
                    builds,
                    most_boots,
                    terms,
                    limits,
                    whatever_differs=whatever_differs,
                    unread=damaged,
                )
            else:
                found = until_settled.by_fleet(settings, builds, most_boots, terms, limits)
        held = {row.key.request for row in found.rows if row.limit_ns is not None}
        until_settled.check_limits(held, limits)
    except KickbenchError as error:
        if report is not None:
            _write(report, junit.refusal(base, candidate, str(error)))
        raise
    if as_json:
        click.echo(msgspec.json.format(to_json(found), indent=2).decode())
    else:
        present.gate(present.stdout(), found)
    if report is not None:
        _write(report, junit.document(found))
    sys.exit(STATUS[found.verdict])


def _read(path: Path) -> tuple[list[Record], int]:
    """The records, and the number of lines that are left out because they are not records.

    :raise CannotCompare: a later version wrote some of them, and these may decide the verdict.
    """
    records, damaged = record.read(path)
    for each in damaged:
        click.echo(f"kickbench: left out: {each}", err=True)
    if newer := [each for each in damaged if each.newer]:
        raise CannotCompare(
            f"{present.count(len(newer), 'record')} cannot be read by this version: {newer[0]}"
        )
    return records, len(damaged)


def known(settings: Settings, name: str, records: Sequence[Record]) -> Kernel:
    """The kernel with records that a user calls `name`.

    :raise CannotCompare: there is no such kernel, or more than one.
    """
    kernels = list(dict.fromkeys(each.kernel for each in records))
    fitting = meant(name, map(describe, kernels), Suites.of(settings).meanings())
    if not fitting:
        file = f"the record file {settings.records}"
        if kernels:
            there = ", ".join(sorted({each.release for each in kernels}))
            why = f"{file} has records of {there}"
        else:
            why = f"{file} " + ("is empty" if settings.records.exists() else "does not exist")
        # The lab boots only kernels that are in the cache or in Debian's suites.
        makes = "trial" if name == BOOTED else "lab campaign"
        raise CannotCompare(
            f"There are no records of {name}: {why}. `kickbench {makes}` makes some."
        )
    if len(fitting) > 1:
        builds = "; ".join(each.version for each in fitting)
        raise CannotCompare(
            f"There are records of {len(fitting)} builds of {fitting[0].release} ({builds}); keep "
            "the records of each build in a separate file (KICKBENCH_RECORDS)."
        )
    return fitting[0].kernel


def _check_fleet(
    address: str, most_boots: int | None, jobs: int | None, *, whatever_differs: bool
) -> None:
    """Refuse options that make no sense together with --fleet."""
    if not address:
        raise click.UsageError("--fleet needs the address of the coordinator: HOST or HOST:PORT.")
    if most_boots is None:
        raise click.UsageError("--fleet applies only to --boots-until-settled; give both options.")
    if jobs is not None:
        raise click.UsageError(
            "Each host of a fleet decides how many labs it runs; leave out --jobs or --fleet."
        )
    if whatever_differs:
        raise click.UsageError(
            "The hosts of a fleet are never judged as one; leave out --whatever-differs or --fleet."
        )


def _limits(given: Sequence[str]) -> dict[RequestName, int]:
    limits = dict(DEFAULT_TERMS.limits_ns)
    for each in given:
        name, equals, text = each.partition("=")
        if not equals:
            raise click.BadParameter(f"{each!r} is not REQUEST=SECONDS.", param_hint="--limit")
        request = named(RequestName, name, UnknownRequest)
        if text == until_settled.NO_LIMIT:
            limits.pop(request, None)
        else:
            limits[request] = round(deadline.seconds(text.removesuffix("s")) * NS_PER_S)
    return limits


def to_json(found: Gate) -> bytes:
    """The gate as an object. A number without a bound is null."""
    rows = [summary.flat(each) for each in found.rows]
    whole = {**msgspec.to_builtins(found), "rows": rows, "boots_needed": found.boots_needed}
    return msgspec.json.encode(whole)


def _write(path: Path, text: bytes) -> None:
    try:
        path.write_bytes(text)
    except OSError as error:
        raise CannotCompare(f"{path} cannot be written ({error.strerror}).") from None
