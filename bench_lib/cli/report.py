# SPDX-License-Identifier: BSD-3-Clause
"""kickbench report: the records, summed up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

import click
import msgspec

from bench_lib import present, record
from bench_lib.cli import options
from bench_lib.errors import ImageError, NothingSelected, UnknownKernel
from bench_lib.guest.workloads.description import WORKLOADS
from bench_lib.kernel.ledger import describe, version_key
from bench_lib.kernel.names import meant
from bench_lib.kernel.suites import Suites
from bench_lib.record import Kernel, Record, RequestName, ScenarioName
from bench_lib.settings import Settings
from bench_lib.verdict import pace, summary


def _start(text: str) -> datetime:
    """Read a date-time, or a date, which stands for its first moment."""
    return _moment(text, time.min)


def _end(text: str) -> datetime:
    """Read a date-time, or a date, which stands for its last moment."""
    return _moment(text, time.max)


def _moment(text: str, of_day: time) -> datetime:
    """Read a date-time, or a date, which stands for the time `of_day` on it."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        pass
    else:
        return datetime.combine(day, of_day, UTC)
    try:
        return _date_time(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not an ISO 8601 date or date-time; write it like 2026-11-26 or "
            "2026-11-26T14:30+01:00."
        ) from None


def _date_time(text: str) -> datetime:
    """Read a date-time. If it has no offset, it is in UTC.

    :raise ValueError: the text is not a date-time.
    """
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Selection:
    """The filters of a report. An empty tuple selects all records.

    :ivar since: the earliest start of a trial; None if there is no bound.
    :ivar until: the latest start of a trial; None if there is no bound.
    """

    kernels: tuple[Kernel, ...] = ()
    scenarios: tuple[ScenarioName, ...] = ()
    requests: tuple[RequestName, ...] = ()
    images: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    def matches(self, each: Record) -> bool:
        """Whether a record matches every filter.

        A record whose start is not a date-time matches neither `since` nor `until`.
        """
        wanted = (
            (self.kernels, each.kernel),
            (self.scenarios, each.scenario),
            (self.requests, each.request),
            (self.images, each.shape.image),
        )
        return all(not some or value in some for some, value in wanted) and self._in_time(each)

    def _in_time(self, each: Record) -> bool:
        if self.since is None and self.until is None:
            return True
        try:
            started = _date_time(each.started)
        except ValueError:
            return False
        early = self.since is not None and started < self.since
        late = self.until is not None and started > self.until
        return not (early or late)


@click.command("report")
@options.kernel("kernels", multiple=True)
@options.scenario("scenarios", multiple=True)
@options.request("requests", multiple=True)
@options.image("images", multiple=True)
@click.option(
    "--since",
    type=_start,
    metavar="DATE",
    help="Report only trials that started on this date or later.",
)
@click.option(
    "--until",
    type=_end,
    metavar="DATE",
    help="Report only trials that started on this date or earlier.",
)
@options.as_json()
def report(
    kernels: tuple[str, ...],
    scenarios: tuple[ScenarioName, ...],
    requests: tuple[RequestName, ...],
    images: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    as_json: bool,
) -> None:
    """Sum up the records, one row per request and scenario.

    There is one table per kernel and host. A median of "> 5.0 s" is a bound: no answer had arrived
    by the deadline.

    The options select records. A record has to match every option, and one of the values of an
    option that is repeated. DATE is a date such as 2026-11-26, which includes the whole
    day, or a date-time such as 2026-11-26T14:30. It is in UTC unless it has an offset
    (14:30+01:00).

    \b
    Examples:
      kickbench report
      kickbench report --kernel debian/6.1 --scenario blackhole --scenario paused
      kickbench report --since 2026-11-01 --until 2026-11-30
      kickbench report --request stop --json | jq '.rows[].outcomes'

    Exits 18 if no record matches the options.
    """
    if since and until and since > until:
        raise click.UsageError("--since is later than --until.")
    settings = Settings.from_environment()
    records, damaged = record.read(settings.records)
    for each in damaged:
        click.echo(f"kickbench: left out: {each}", err=True)
    chosen = Selection(
        _recorded(settings, kernels, records), scenarios, requests, images, since, until
    )
    _check_images(images, records)
    selected = [each for each in records if chosen.matches(each)]
    if not selected and chosen != Selection():
        raise NothingSelected(
            f"None of the {len(records)} records in {settings.records} matches all options; "
            "`kickbench report` without options shows all records."
        )
    if as_json:
        click.echo(to_json(selected).decode())
    elif selected:
        # Damaged memory is the worst news, so it is printed first.
        present.recoveries(present.stdout(), summary.recoveries(selected))
        present.report(
            present.stdout(),
            summary.rows(selected),
            pace.paces(selected),
            summary.differences(selected),
        )
    else:
        click.echo(
            f"There are no records yet in {settings.records}; `asv run` or `kickbench trial` makes "
            "some."
        )


def _recorded(
    settings: Settings, names: Sequence[str], records: Sequence[Record]
) -> tuple[Kernel, ...]:
    """The builds in the records that these names mean.

    :raise UnknownKernel: one of the names means no kernel that has records.
    """
    builds = [describe(kernel) for kernel in dict.fromkeys(each.kernel for each in records)]
    suites = Suites.of(settings).meanings() if names else {}
    found: list[Kernel] = []
    for name in names:
        fitting = meant(name, builds, suites)
        if not fitting:
            releases = sorted({each.release for each in builds}, key=version_key)
            others = f"are records of {', '.join(releases)}" if releases else "are no records yet"
            raise UnknownKernel(f"There are no records of kernel {name!r}; there {others}.")
        found.extend(each.kernel for each in fitting)
    return tuple(found)


def _check_images(names: Sequence[str], records: Sequence[Record]) -> None:
    """Refuse names of images that neither this version of kickbench nor any record has.

    :raise ImageError: there is no such image.
    """
    known = list(dict.fromkeys([*WORKLOADS, *(each.shape.image for each in records)]))
    for name in names:
        if name not in known:
            raise ImageError(
                f"There is no guest image {name!r}; the images are {', '.join(known)}."
            )


def to_json(records: Sequence[Record]) -> bytes:
    """The report as a JSON object."""
    text = msgspec.json.encode(
        {
            "rows": [summary.flat(each) for each in summary.rows(records)],
            "recoveries": [summary.flat(each) for each in summary.recoveries(records)],
            "paces": pace.paces(records),
            "differences": summary.differences(records),
        }
    )
    return msgspec.json.format(text, indent=2)
