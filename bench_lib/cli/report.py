# SPDX-License-Identifier: BSD-3-Clause
"""kickbench report: the records, summed up."""

from __future__ import annotations

import click
import msgspec

from bench_lib import present, record
from bench_lib.cli import options
from bench_lib.settings import Settings
from bench_lib.verdict import summary


@click.command("report")
@options.as_json()
def report(as_json: bool) -> None:
    """Sum up the records: a row per kernel, host, scenario and request.

    A median of "> 5.0 s" is a bound: the answer had not come by the deadline.
    """
    settings = Settings.from_environment()
    records, damaged = record.read(settings.records)
    for each in damaged:
        click.echo(f"kickbench: left out: {each}", err=True)
    rows, paces = summary.rows(records), summary.paces(records)
    differences = summary.differences(records)
    if as_json:
        text = msgspec.json.encode(
            {
                "rows": [summary.flat(each) for each in rows],
                "recoveries": [summary.flat(each) for each in summary.recoveries(records)],
                "paces": paces,
                "differences": differences,
            }
        )
        click.echo(msgspec.json.format(text, indent=2).decode())
    elif rows:
        # Damage comes before all else.
        present.recoveries(present.stdout(), summary.recoveries(records))
        present.report(present.stdout(), rows, paces, differences)
    else:
        click.echo(
            f"No records yet in {settings.records}; `asv run` or `kickbench trial` makes some."
        )
