# SPDX-License-Identifier: BSD-3-Clause
"""A table of kernel builds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench_lib.present.words import size


@dataclass(frozen=True)
class KernelRow:
    """A row of the list of kernels.

    :ivar date: the date of the build; empty if only apt knows the build.
    :ivar source: where the build came from, or can be fetched from.
    :ivar interruptible: yes, no or unknown, read from the kernel's types; empty without an image.
    :ivar size_bytes: the size of the build in the cache.
    """

    release: str
    date: str
    stream: str
    source: str
    fetched: bool
    booted: bool
    measured: bool
    interruptible: str = ""
    size_bytes: int = 0


def kernels(console: Console, rows: Sequence[KernelRow]) -> None:
    """Print a table of builds."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=0)
    for heading in ("release", "stream", "built", "fetched", "measured", "interruptible"):
        table.add_column(heading, overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("from", overflow="fold")
    for row in rows:
        table.add_row(
            row.release + (" (booted)" if row.booted else ""),
            row.stream,
            row.date or "-",
            "yes" if row.fetched else "no",
            "yes" if row.measured else "no",
            row.interruptible or "-",
            size(row.size_bytes) if row.fetched else "-",
            row.source or "-",
        )
    console.print(table)
