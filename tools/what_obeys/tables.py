# SPDX-License-Identifier: BSD-3-Clause
"""The generated parts of the page."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from bench_lib import present
from bench_lib.kernel.ledger import version_key
from bench_lib.record import FAILED, Outcome, RequestName
from bench_lib.units import NS_PER_S

from .cells import WAKES, Cell, Input, Place, Row, probe_rows, trial_rows, used
from .predictions import Reason

PART = re.compile(r"(?<=<!-- generated: )(\w+)( -->\n)(.*?)(?=<!-- end -->\n)", re.DOTALL)
"""A pattern for the comment that names a generated part, and what follows until its end."""

WIDTH = 110
"""The width of stacks in columns."""


_PREDICTED = {
    str(RequestName.STOP): "requests",
    str(RequestName.SIGKILL): "SIGKILL",
    str(RequestName.QUERY_STATUS): "query-status",
    "memslot": "memory slots",
    str(RequestName.PS): "ps",
    str(RequestName.PROC_MAPS): "proc-maps",
}
"""The requests and groups whose predictions the table of reasons has, and their headings."""


@dataclass
class Stacks:
    """The stacks that cells refer to, each once.

    :ivar uses: by the number of the stack, and by the thread and the moment: the cells.
    """

    numbers: dict[tuple[str, ...], int] = field(default_factory=dict)
    uses: dict[int, dict[str, dict[str, None]]] = field(default_factory=dict)

    def links(self, cell: Cell, where: str) -> str:
        """Return links to the stacks of a cell.

        :param where: the row, the request and the place of the cell.
        """
        links = []
        for seen in cell.threads:
            number = self.numbers.setdefault(seen.stack, len(self.numbers) + 1)
            thread = f"{seen.who}, state {seen.state} ({seen.where})"
            self.uses.setdefault(number, {}).setdefault(thread, {})[where] = None
            links.append(f"[{number}](#stack-{number})")
        return " ".join(dict.fromkeys(links))

    def page(self) -> Iterator[str]:
        """Yield the lines of the part of the page that shows the stacks."""
        for stack, number in self.numbers.items():
            text = textwrap.wrap(
                " < ".join(stack), WIDTH, break_long_words=False, break_on_hyphens=False
            )
            yield from (f"### Stack {number}", "")
            for thread, cells in self.uses[number].items():
                more = f" (and {len(cells) - 1} more)" if len(cells) > 1 else ""
                yield f"- {thread}: {next(iter(cells))}{more}"
            yield from ("", "```text", *text, "```", "")


@dataclass(frozen=True)
class Tables:
    """The generated parts of the page."""

    trials: list[Row]
    probed: list[Row]
    all_reasons: Sequence[Reason]
    stacks: Stacks = field(default_factory=Stacks)

    def parts(self) -> dict[str, str]:
        """Return every part by name. Stacks have numbers in the order of the tables."""
        makers: dict[str, Callable[[], Iterator[str]]] = {
            "agreement": self._agreement,
            "stop": lambda: self._by_place(RequestName.STOP),
            "sigkill": lambda: self._by_place(RequestName.SIGKILL),
            "requests": lambda: self._by_request(self.trials, map(str, RequestName)),
            "probe": lambda: self._by_request(self.probed, WAKES),
            "reasons": self._reasons,
            "stacks": self.stacks.page,
        }
        return {name: "".join(f"{line}\n" for line in make()) for name, make in makers.items()}

    def _agreement(self) -> Iterator[str]:
        """Yield how many predictions were right, and the cells in which they were not."""
        judged = [
            (row, place, request, cell, expected)
            for row in (*self.trials, *self.probed)
            for (place, request), cell in sorted(row.cells.items(), key=_order)
            if cell.scored and (expected := row.reason.prediction(request, place.kernel))
        ]
        wrong = [each for each in judged if not each[3].agrees(each[4])]
        right = len(judged) - len(wrong)
        yield f"{right} of {len(judged)} measured cells with a prediction are as predicted."
        if wrong:
            yield "These are not:"
            yield ""
        for row, place, request, cell, expected in wrong:
            links = self.stacks.links(cell, _where(row, request, place))
            yield (
                f"- {row.reason.number}, {row.reason.name} (`{row.staged}`): `{request}` under "
                f"{place.name}: predicted {expected}, measured {_measured(cell)} {links}"
            )

    def _by_place(self, request: str) -> Iterator[str]:
        """Yield a table with a column per place."""
        places = _places(self.trials)
        yield from _head(["reason", "staged by", "predicted", *(each.name for each in places)])
        for row in self.trials:
            cells = [self._cell(row, place, request) for place in places]
            yield _line([_reason(row), f"`{row.staged}`", row.reason.words(request), *cells])

    def _by_request(self, rows: Sequence[Row], requests: Iterable[str]) -> Iterator[str]:
        """Yield a table per place, with a column per request that was made there."""
        order = list(requests)
        for place in _places(rows):
            made = {request for row in rows for at, request in row.cells if at == place}
            columns = [each for each in order if each in made]
            yield from (f"### {place.name}", "")
            yield from _head(["reason", "staged by", *(f"`{each}`" for each in columns)])
            for row in rows:
                if any(at == place for at, _ in row.cells):
                    cells = [self._cell(row, place, request) for request in columns]
                    yield _line([_reason(row), f"`{row.staged}`", *cells])
            yield ""

    def _cell(self, row: Row, place: Place, request: str) -> str:
        cell = row.cells.get((place, request))
        if cell is None:
            return "not measured"
        expected = row.reason.prediction(request, place.kernel)
        sign = ""
        if expected is not None and cell.scored:
            sign = "✓ " if cell.agrees(expected) else "✗ "
        return f"{sign}{_measured(cell)} {self.stacks.links(cell, _where(row, request, place))}"

    def _reasons(self) -> Iterator[str]:
        """Yield the reasons, and what was predicted of them."""
        yield from _head(["", "reason", "how it waits", *_PREDICTED.values(), "read in"])
        for each in self.all_reasons:
            waits = each.waits + (f" Not staged: {each.not_staged}." if each.not_staged else "")
            words = [each.words(request) for request in _PREDICTED]
            yield _line([each.number, each.name, waits, *words, each.source])


def _order(item: tuple[tuple[Place, str], Cell]) -> tuple[object, ...]:
    (place, request), _ = item
    return version_key(place.kernel.release), place.name, request


def _places(rows: Iterable[Row]) -> list[Place]:
    """Return all places of the rows, the oldest kernel first."""
    places = {place for row in rows for place, _ in row.cells}
    return sorted(places, key=lambda each: (version_key(each.kernel.release), each.name))


def _reason(row: Row) -> str:
    return f"{row.reason.number} {row.reason.name}"


def _where(row: Row, request: str, place: Place) -> str:
    return f"`{request}`, `{row.staged}`, {place.name}"


def _measured(cell: Cell) -> str:
    """Return what was measured: **asleep**; 2 returned, 1 **spinning**, 0.54 ms; lost 2."""
    if not cell.scored:
        return f"lost {cell.outcomes[Outcome.LOST]}"
    parts = []
    for outcome in Outcome:
        if number := cell.outcomes[outcome]:
            name = f"**{outcome}**" if outcome in FAILED else str(outcome)
            parts.append(f"{number} {name}" if cell.outcomes.total() > 1 else name)
    text = ", ".join(parts)
    if cell.usual is not None and not cell.usual.censored:
        text += f", {present.duration(cell.usual.ns)}"
    if len(cell.deadlines_ns) > 1:
        text += f" (deadlines {', '.join(f'{each / NS_PER_S:g} s' for each in cell.deadlines_ns)})"
    return text


def _head(names: Collection[str]) -> tuple[str, str]:
    return _line(names), f"|{'---|' * len(names)}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(each.strip() for each in cells)} |"


def made(page: str, found: Input, all_reasons: Sequence[Reason]) -> str:
    """Return the page, with its generated parts made from this input."""
    rows = trial_rows(used(found.records, all_reasons), all_reasons)
    parts = Tables(rows, probe_rows(found.reports, all_reasons), all_reasons).parts()
    return PART.sub(lambda match: f"{match[1]}{match[2]}{parts[match[1]]}", page)
