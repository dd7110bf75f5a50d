"""Writes the page: its files, the matrix, and a file of trials for each kernel and host."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench_lib.kernel import version
from bench_lib.kernel.ledger import version_key
from bench_lib.record import HUNG, Host, Kernel, Outcome, Record, RequestName, ScenarioName, Shape
from bench_lib.verdict import summary
from bench_lib.verdict.summary import Row

FILES = {"kernels.html": "index.html", "kernels.css": "kernels.css", "kernels.js": "kernels.js"}
"""What the page consists of, and what it is called in the site."""

Column = tuple[RequestName, ScenarioName, Shape]


def write(folder: Path, records: Sequence[Record], *, history: bool) -> None:
    """Write the page into a site.

    :param history: whether there is a page of asv's numbers to link to.
    :raise OSError: it could not be written.
    """
    here = Path(__file__).parent
    for source, target in FILES.items():
        shutil.copyfile(here / source, folder / target)
    columns = _columns(records)
    groups: dict[tuple[Kernel, Host], list[Record]] = {}
    for each in records:
        groups.setdefault((each.kernel, each.host), []).append(each)
    order = sorted(
        groups, key=lambda key: (version_key(key[0].release), key[1].kind, key[1].machine)
    )
    _write_script(
        folder / "matrix.js",
        "matrix",
        {
            "history": history,
            "columns": [
                {"request": request, "scenario": scenario, "shape": of.unusual}
                for request, scenario, of in columns
            ],
            "rows": [_row(kernel, host, groups[kernel, host], columns) for kernel, host in order],
        },
    )
    (folder / "trials").mkdir(exist_ok=True)
    numbers = {column: number for number, column in enumerate(columns)}
    for (kernel, host), group in groups.items():
        name = _id(kernel, host)
        trials = [_trial(each, numbers) for each in group]
        _write_script(folder / "trials" / f"{name}.js", "trials", name, trials)


def _write_script(path: Path, function: str, *arguments: object) -> None:
    """A call with JSON, in which nothing can end the script that it may be inside of."""
    text = ", ".join(msgspec.json.encode(each).decode() for each in arguments)
    # JSON is JavaScript but for two separators of lines, which old engines take for such.
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    path.write_text(f"kickbench.{function}({text});\n", encoding="utf-8")


def _columns(records: Iterable[Record]) -> list[Column]:
    """Those that have records, in the order that requests and scenarios are defined in."""
    requests, scenarios = list(RequestName), list(ScenarioName)

    def order(column: Column) -> Any:
        request, scenario, of = column
        return requests.index(request), scenarios.index(scenario), msgspec.json.encode(of)

    return sorted({(each.request, each.scenario, each.shape) for each in records}, key=order)


def _id(kernel: Kernel, host: Host) -> str:
    return hashlib.sha256(msgspec.json.encode([kernel, host])).hexdigest()[:12]


def _row(
    kernel: Kernel, host: Host, records: Sequence[Record], columns: Sequence[Column]
) -> dict[str, object]:
    rows = {(row.request, row.scenario, row.shape): row for row in summary.rows(records)}
    return {
        "id": _id(kernel, host),
        "release": kernel.release,
        "version": kernel.version,
        "stream": version.stream(kernel),
        "kind": host.kind,
        "accelerator": host.accelerator,
        "machine": host.machine,
        "boots": len({each.boot_id for each in records if each.boot_id}),
        "cells": [_cell(rows[column]) if column in rows else None for column in columns],
    }


def _cell(row: Row) -> tuple[int | None, bool, int, int, int]:
    """The median and whether it is only a bound; of how many trials how many hung and were lost.

    Without names, for there are many cells.
    """
    return (
        row.median.ns if row.median else None,
        row.median is not None and row.median.censored,
        row.trials,
        sum(row.outcomes[each] for each in HUNG),
        # Of no measurement, whatever the reason.
        row.outcomes[Outcome.LOST] + row.outcomes[Outcome.REFUSED],
    )


def _trial(record: Record, columns: dict[Column, int]) -> dict[str, object]:
    return {
        "column": columns[record.request, record.scenario, record.shape],
        "boot": record.boot_id,
        "outcome": record.outcome,
        "reason": record.reason,
        "waited_ns": record.waited_ns,
        "deadline_ns": record.deadline_ns,
        "run_id": record.run_id,
        "seq": record.seq,
        "started": record.started,
        "outage": record.outage,
        "qemu": record.qemu,
        "evidence": record.evidence,
    }
