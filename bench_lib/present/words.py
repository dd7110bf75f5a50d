# SPDX-License-Identifier: BSD-3-Clause
"""Short texts for times, sizes and counts, and the console that prints them."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console

from bench_lib.units import NS_PER_S
from bench_lib.verdict.summary import Wait

NS_PER_MS = 1_000_000

WIDE = 120
"""The width of a console that is not a terminal, such as a file or a CI log, in columns."""


WIDEST_PLACE = 60
"""The longest place that a table keeps in one line. With a long CPU it would leave no room for the
other columns."""


def stdout() -> Console:
    """Return a console for results, as wide as the terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDE)


def duration(ns: int) -> str:
    """Return a time with two or three digits and a unit that suits it: 0.64 ms, 17 ms, 5.0 s."""
    if ns < 10 * NS_PER_MS:
        return f"{ns / NS_PER_MS:.2f} ms"
    if ns < NS_PER_S:
        return f"{ns / NS_PER_MS:.0f} ms"
    return f"{ns / NS_PER_S:.1f} s"


def span(seconds: float) -> str:
    """Return a time that people wait, in one or two units: 42 s, 12 min, 3 h 5 min, 2 d 4 h."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def wait(value: Wait | None) -> str:
    """Return a wait; "> 5.0 s" if there was no answer, and "-" if nothing was measured."""
    if value is None:
        return "-"
    return f"> {duration(value.ns)}" if value.censored else duration(value.ns)


def size(number: int) -> str:
    """Return a number of bytes in MiB: 404 MiB."""
    return f"{number >> 20} MiB"


def in_one_line(places: Iterable[str]) -> bool:
    """Whether a table keeps each place (`Key.place`) in one line."""
    return all(len(place) <= WIDEST_PLACE for place in places)


def count(number: int, noun: str) -> str:
    """Return a number and its noun: 1 boot, 2 boots."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
