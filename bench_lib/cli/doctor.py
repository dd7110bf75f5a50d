# SPDX-License-Identifier: BSD-3-Clause
"""kickbench doctor: what this host can measure, and what is missing."""

from __future__ import annotations

import sys

import click
import msgspec

from bench_lib import doctor as checks
from bench_lib import present
from bench_lib.cli import options
from bench_lib.host import identity, setup
from bench_lib.settings import Settings

SENTENCES = {
    0: "Trials can run under the booted kernel{lab}.",
    1: "Trials can run only in the lab; the rows marked `missing` give the reason.",
    2: "No trial can run here; the rows marked `missing` give the reason.",
}


@click.command("doctor")
@options.as_json()
def doctor(as_json: bool) -> None:
    """Check what this host can measure, and what is missing.

    Each row is `fine`, `degraded` (results will lack something) or `missing`. Below a row that is
    not fine are the consequence and, if there is one, a command that fixes it. The doctor changes
    nothing, and works as any user.

    \b
    Examples:
      kickbench doctor
      kickbench doctor --json | jq '.rows[] | select(.status != "fine")'

    Exits 0 if trials can run under the booted kernel, 1 if they can run only in the lab, 2 if they
    cannot run at all.
    """
    settings = Settings.from_environment()
    rows = []
    for row in checks.examine(settings):
        rows.append(row)
        if not as_json:
            present.doctor_finding(present.stdout(), row)
    lab = checks.lab_runs(rows)
    native = checks.native_runs(rows)
    status = 0 if native else 1 if lab else 2
    if as_json:
        text = msgspec.json.encode(
            {
                "native": native,
                "lab": lab,
                "kernel": identity.booted(),
                "setup": setup.of_this_machine(),
                "rows": rows,
            }
        )
        click.echo(msgspec.json.format(text, indent=2).decode())
    else:
        click.echo(SENTENCES[status].format(lab=", and others in the lab" if lab else ""))
    sys.exit(status)
