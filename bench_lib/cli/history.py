# SPDX-License-Identifier: BSD-3-Clause
"""kickbench history: the folder that asv works in."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def history() -> None:
    """Start or complete a history, the folder that asv works in.

    A history has asv's results, the records of trials, and the list of known kernels.

    \b
    Example:
      kickbench history init history
    """


@history.command("init")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def init_command(folder: Path) -> None:
    """Start a history in DIR, or add what a history lacks.

    DIR may be new, or a history of an older kickbench. Files that exist are not changed. DIR
    becomes a git repository, unless it is in one already; nothing is committed.

    \b
    Example:
      kickbench history init history && cd history && asv run --record-samples
    """
    # Imported here because it imports asv, which takes a while.
    from bench_lib.asv_bridge import history as histories

    started = histories.begin(folder)
    made = list(dict.fromkeys(name.partition("/")[0] for name in started.made))
    if started.repository:
        made.append("a git repository")
    if made:
        click.echo(f"{folder} now has {', '.join(made)}.")
    else:
        click.echo(f"{folder} is complete; nothing was added.")
    for name in started.differing:
        click.echo(
            f"{folder / name} differs from that of this version and was left as it is. To get the "
            "one of this version, delete it and run this command again.",
            err=True,
        )
