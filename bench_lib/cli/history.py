# SPDX-License-Identifier: BSD-3-Clause
"""kickbench history: the folder that asv works in."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def history() -> None:
    """A history: the folder that asv works in, with its results, records and list of kernels."""


@history.command("init")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def init_command(folder: Path) -> None:
    """Begin a history in DIR.

    DIR may be new, or a history that an older kickbench has begun: what it lacks is added, and
    nothing that it has is changed. It becomes a git repository unless it is in one; nothing is
    committed.

    \b
    Example:
      kickbench history init history && cd history && asv run --record-samples
    """
    # It imports asv, which takes a moment.
    from bench_lib.asv_bridge import history as histories

    begun = histories.begin(folder)
    made = list(dict.fromkeys(name.partition("/")[0] for name in begun.made))
    if begun.repository:
        made.append("a git repository")
    if made:
        click.echo(f"{folder} now has {', '.join(made)}.")
    else:
        click.echo(f"{folder} lacked nothing.")
    for name in begun.differing:
        click.echo(
            f"{folder / name} is not that of this version and was left as it is; delete it and "
            "run this again to have that.",
            err=True,
        )
