# SPDX-License-Identifier: BSD-3-Clause
"""kickbench gate: may one kernel follow another?"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from bench_lib import deadline, present, record
from bench_lib.cli import options
from bench_lib.cli.kernels import bootable
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
from bench_lib.kernel.store import Bootable, Store
from bench_lib.kernel.suites import Suites
from bench_lib.lab import settling
from bench_lib.lab.vm import Facts
from bench_lib.record import Kernel, Record, RequestName
from bench_lib.settings import Settings
from bench_lib.units import NS_PER_S
from bench_lib.verdict import gate as judging
from bench_lib.verdict import junit, summary
from bench_lib.verdict.gate import Gate, Verdict
from bench_lib.verdict.matching import check_alike
from bench_lib.verdict.terms import DEFAULT_TERMS, Terms

STATUS = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 2}

NO_LIMIT = "none"


class _Command(click.Command):
    """Statuses of 0 to 2 are verdicts and nothing else, so bad usage, click's 2, has another."""

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
    help="How many times as long an answer may take.",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="REQUEST=SECONDS",
    help="The longest that a request may ever take; `stop=none` for no limit. Default: stop=1.",
)
@click.option(
    "--whatever-differs",
    is_flag=True,
    help="Compare records of differing hosts, QEMUs and settings; never native with the lab's.",
)
@click.option(
    "--boots-until-settled",
    "most_boots",
    type=click.IntRange(min=1),
    metavar="MAX",
    help="Boot both kernels in the lab until there is a verdict, at most so often each.",
)
@options.jobs()
@options.as_json()
@click.option(
    "--junit",
    "report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the verdicts as JUnit XML.",
)
def gate(
    base: str,
    candidate: str,
    tolerance: float,
    limits: tuple[str, ...],
    whatever_differs: bool,
    most_boots: int | None,
    jobs: int | None,
    as_json: bool,
    report: Path | None,
) -> None:
    """Judge by the records whether CANDIDATE may be rolled out after BASE.

    `pass` takes evidence that it is no worse; what is only not known to be worse is `inconclusive`.
    Boots are what is compared, so several of each kernel are needed: `kickbench lab campaign` makes
    them. Under emulation (tcg) only hangs are judged, and limits at ten times their length.

    \b
    Examples:
      kickbench gate 6.1.0-55-amd64 6.1.0-56-amd64
      kickbench gate debian/6.1 debian/6.12 --limit stop=0.5s --tolerance 1.1
      kickbench gate 6.12.113+deb12-amd64 6.12.117+deb12-amd64 --junit gate.xml
      kickbench gate debian/6.1 debian/6.12 --boots-until-settled 20

    Kernels are those of the records: a release, its tag (v...), the newest of a stream
    (debian/6.1), or `booted`. With --boots-until-settled a kernel that has no records yet is the
    newest that is fetched, or else the newest at apt. Which release it was is printed.

    Exits 0 on pass, 1 on fail, 2 when it is inconclusive, 3 when the two cannot be compared.
    """
    if not math.isfinite(tolerance):
        raise click.BadParameter("nan is no number of times.", param_hint="--tolerance")
    terms = dataclasses.replace(DEFAULT_TERMS, tolerance=tolerance, limits_ns=_limits(limits))
    settings = options.with_jobs(Settings.from_environment(), jobs)
    if jobs is not None and most_boots is None:
        raise click.UsageError("--jobs is for the boots of --boots-until-settled.")
    if report is not None:
        # Before the work, which may take a while, and may be killed.
        _write(report, junit.refusal(base, candidate, "There is no verdict yet."))
    try:
        records, damaged = _read(settings.records)

        def judge(records: Sequence[Record], kernels: Sequence[Kernel], terms: Terms) -> Gate:
            ours, theirs = kernels
            return judging.compare(
                records, ours, theirs, terms, whatever_differs=whatever_differs, unread=damaged
            )

        if most_boots is None:
            kernels = [known(settings, name, records) for name in (base, candidate)]
            _say_releases((base, candidate), kernels)
            found = judge(records, kernels, terms)
        else:
            found = _until_settled(
                settings,
                (base, candidate),
                records,
                most_boots,
                terms,
                judge,
                limits,
                alike=not whatever_differs,
            )
        held = {row.key.request for row in found.rows if row.limit_ns is not None}
        _check_limits(held, limits)
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
    """The records, and how many lines are left out for they are none.

    :raise CannotCompare: some are records of a later version; they may be what decides.
    """
    records, damaged = record.read(path)
    for each in damaged:
        click.echo(f"kickbench: left out: {each}", err=True)
    if newer := [each for each in damaged if each.newer]:
        raise CannotCompare(f"{len(newer)} records are not understood here: {newer[0]}")
    return records, len(damaged)


def _check_limits(held: Container[str], given: Sequence[str]) -> None:
    """Refuse a limit that nothing is held to.

    :param held: requests that some records are held to a limit of.
    :raise CannotCompare: one of those `given` is not among them.
    """
    for name, _, text in (each.partition("=") for each in given):
        if text != NO_LIMIT and name not in held:
            raise CannotCompare(
                f"There is a limit for {name}, of which there are no records to hold it to; "
                f"`kickbench lab campaign --request {name} ...` makes some."
            )


def known(settings: Settings, name: str, records: Sequence[Record]) -> Kernel:
    """The kernel of the records that a user calls `name`.

    :raise CannotCompare: there is none, or more than one.
    """
    kernels = list(dict.fromkeys(each.kernel for each in records))
    fitting = meant(name, map(describe, kernels), Suites.of(settings).meanings())
    if not fitting:
        there = ", ".join(sorted({each.release for each in kernels})) or "none yet"
        raise CannotCompare(
            f"There are no records of {name}; there are of {there}. "
            "`kickbench lab campaign` makes some."
        )
    if len(fitting) > 1:
        builds = "; ".join(each.version for each in fitting)
        raise CannotCompare(
            f"There are records of {len(fitting)} builds of {fitting[0].release} ({builds}); keep "
            "those apart in record files of their own (KICKBENCH_RECORDS)."
        )
    return fitting[0].kernel


def _to_boot(settings: Settings, name: str, records: Sequence[Record]) -> Bootable:
    """The build that `name` means: of the recorded kernels, or else of those that are fetched.

    So a name means the same with and without more boots, and Debian's suites are looked into only
    where neither has such a kernel, or for the very packages of one that is not here.
    """
    cache = Store.of(settings)
    recorded = [describe(kernel) for kernel in dict.fromkeys(each.kernel for each in records)]
    fetched = sorted((each.build for each in cache.all()), key=lambda build: build.date)
    suites = Suites.of(settings).meanings()
    for builds in (recorded, fetched):
        if found := meant(name, builds, suites):
            return cache.find_build(found[-1]) or bootable(settings, found[-1].release)
    return bootable(settings, name)


def _say_releases(names: Sequence[str], kernels: Sequence[Kernel]) -> None:
    """Print which releases were meant, where the names are not those."""
    for name, kernel in zip(names, kernels, strict=True):
        if name.removeprefix("v") != kernel.release:
            click.echo(f"kickbench: {name} is {kernel.release}", err=True)


def _until_settled(
    settings: Settings,
    names: Sequence[str],
    records: Sequence[Record],
    most: int,
    terms: Terms,
    judge: Callable[[Sequence[Record], Sequence[Kernel], Terms], Gate],
    limits: Sequence[str],
    *,
    alike: bool,
) -> Gate:
    """Look, and boot both kernels more often in the lab, until that settles it.

    What could not be judged afterwards is refused before anything is booted.

    :param alike: whether that includes what was made with something else.
    """
    if BOOTED in names:
        raise CannotCompare("The lab boots kernels that are fetched; `booted` is not one of them.")
    builds = [_to_boot(settings, name, records) for name in names]
    kernels = [build.build.kernel for build in builds]
    _say_releases(names, kernels)
    there = settling.lab_records(settings, builds)
    _check_limits({each.request for each in settling.cases(there)}, limits)
    if alike:
        check_alike(there, *kernels)
        settling.check_as_now(there, settings)
    looks = settling.looks(most)
    terms = dataclasses.replace(terms, looks=len(looks))
    for number, boots in enumerate(looks, start=1):
        settling.boot(settings, builds, boots, _say_record, _say_boot)
        found = judge(settling.lab_records(settings, builds), kernels, terms)
        each = f"{present.count(boots, 'boot')} of each"
        text = f"look {number} of {len(looks)}, {each}: {found.verdict}"
        click.echo(f"kickbench: {text}", err=True)
        if found.verdict is not Verdict.INCONCLUSIVE:
            break
    return found


def _say_record(made: Record) -> None:
    click.echo(present.trial_line(made), err=True)


def _say_boot(facts: Facts) -> None:
    click.echo(f"kickbench: {facts}", err=True)


def _limits(given: Sequence[str]) -> dict[RequestName, int]:
    limits = dict(DEFAULT_TERMS.limits_ns)
    for each in given:
        name, equals, text = each.partition("=")
        if not equals:
            raise click.BadParameter(f"{each!r} is not REQUEST=SECONDS.", param_hint="--limit")
        request = named(RequestName, name, UnknownRequest)
        if text == NO_LIMIT:
            limits.pop(request, None)
        else:
            limits[request] = round(deadline.seconds(text.removesuffix("s")) * NS_PER_S)
    return limits


def to_json(found: Gate) -> bytes:
    """The gate as an object; what nothing bounds is null."""
    rows = [summary.flat(each) for each in found.rows]
    whole = {**msgspec.to_builtins(found), "rows": rows, "boots_needed": found.boots_needed}
    return msgspec.json.encode(whole)


def _write(path: Path, text: bytes) -> None:
    try:
        path.write_bytes(text)
    except OSError as error:
        raise CannotCompare(f"{path} cannot be written ({error.strerror}).") from None
