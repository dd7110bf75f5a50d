# SPDX-License-Identifier: BSD-3-Clause
"""Progress bars for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


@contextmanager
def progress(console: Console, total: int, what: str) -> Iterator[Callable[[], None]]:
    """Show a progress bar with the time left, on a terminal only.

    It yields a function to call when one of `total` is done.
    """
    bar = Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


@contextmanager
def download(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar in bytes on a terminal, and print a plain line elsewhere.

    It yields a function to call with the number of bytes so far, and the number of all bytes.
    """
    if not console.is_terminal:
        console.print(f"{what} ...", markup=False, highlight=False, soft_wrap=True)
    bar = Progress(
        TextColumn(what, markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda here, total: bar.update(task, completed=here, total=total or None)
