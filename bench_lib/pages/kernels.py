# SPDX-License-Identifier: BSD-3-Clause
"""Write the page: its files, the matrix, and a file of trials per kernel and host."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench_lib.kernel import version
from bench_lib.kernel.ledger import version_key
from bench_lib.record import (
    Family,
    Host,
    Kernel,
    Key,
    ManagerName,
    Outcome,
    Record,
    RequestName,
    ScenarioName,
    Thread,
)
from bench_lib.verdict import summary
from bench_lib.verdict.summary import KeySummary

FILES = {
    "kernels.html": "index.html",
    "kernels.css": "kernels.css",
    "parts.js": "parts.js",
    "plots.js": "plots.js",
    "kernels.js": "kernels.js",
}
"""The files of the page, and their names in the site."""


def write(folder: Path, records: Sequence[Record], *, history: bool) -> None:
    """Write the page into a site.

    :param history: whether the site has a page of asv's numbers, which the page links to.
    :raise OSError: a file could not be written.
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
                {
                    "request": each.request,
                    "place": each.place,
                    "family": each.scenario.family,
                }
                for each in columns.values()
            ],
            "rows": [_row(kernel, host, groups[kernel, host], columns) for kernel, host in order],
        },
    )
    (folder / "trials").mkdir(exist_ok=True)
    numbers = {name: number for number, name in enumerate(columns)}
    for (kernel, host), group in groups.items():
        name = _id(kernel, host)
        trials = [_trial(each, numbers) for each in group]
        _write_script(folder / "trials" / f"{name}.js", "trials", name, trials)


def _write_script(path: Path, function: str, *arguments: object) -> None:
    """Write a script that calls a function of the page with JSON.

    No argument can end the script element that the text may be in.
    """
    text = ", ".join(msgspec.json.encode(each).decode() for each in arguments)
    # JSON allows two characters in strings that old JavaScript engines take for ends of lines.
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    path.write_text(f"kickbench.{function}({text});\n", encoding="utf-8")


def _columns(records: Iterable[Record]) -> dict[str, Key]:
    """Return the columns that have records, by name, each with a key of any host.

    Those of a family are together. They have the order in which families, requests, scenarios and
    managers are defined.
    """
    families, requests = list(Family), list(RequestName)
    scenarios, managers = list(ScenarioName), list(ManagerName)

    def order(item: tuple[str, Key]) -> Any:
        _, key = item
        return (
            families.index(key.scenario.family),
            requests.index(key.request),
            scenarios.index(key.scenario),
            managers.index(key.manager),
            msgspec.json.encode(key.shape),
        )

    keys = {each.key for each in records}
    return dict(sorted({key.name: key for key in keys}.items(), key=order))


def _id(kernel: Kernel, host: Host) -> str:
    """Return the name of a row's file of trials."""
    return hashlib.sha256(msgspec.json.encode([kernel, host])).hexdigest()[:12]


def _row(
    kernel: Kernel, host: Host, records: Sequence[Record], columns: Iterable[str]
) -> dict[str, object]:
    rows = {row.key.name: row for row in summary.rows(records)}
    return {
        "id": _id(kernel, host),
        "release": kernel.release,
        "version": kernel.version,
        "stream": version.stream(kernel),
        "kind": host.kind,
        "accelerator": host.accelerator,
        "machine": host.machine,
        "machine_ids": sorted({each.machine_id for each in records if each.machine_id}),
        "boots": len({each.boot_id for each in records if each.boot_id}),
        "cells": [_cell(rows[column]) if column in rows else None for column in columns],
    }


def _cell(row: KeySummary) -> tuple[int | None, bool, int, int, int, int]:
    """Return a cell as `PackedCell` of parts.js describes it.

    The values are the median wait, whether it is only a lower bound, and how many trials there are,
    hung or died, were lost, and were refused. If all were refused, the median is that of the
    refusals. The values have no names, because there are many cells.
    """
    median = row.median or row.refused_median
    return (
        median.ns if median else None,
        median is not None and median.censored,
        row.trials,
        row.failed,
        row.outcomes[Outcome.LOST],
        row.outcomes[Outcome.REFUSED],
    )


def _trial(record: Record, columns: Mapping[str, int]) -> dict[str, object]:
    evidence = record.evidence
    # Many threads have the same stack, so each stack is written once.
    stacks = {each.stack: None for each in (*evidence.before, *evidence.after)}
    numbers = {stack: number for number, stack in enumerate(stacks)}
    return {
        "column": columns[record.key.name],
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
        "late_ns": record.late_ns,
        "survivors": record.survivors,
        "pending": evidence.pending,
        "mix": evidence.mix,
        "stacks": list(stacks),
        "before": [_thread(each, numbers) for each in evidence.before],
        "after": [_thread(each, numbers, evidence.blocker) for each in evidence.after],
    }


def _thread(
    thread: Thread, stacks: Mapping[tuple[str, ...], int], blocker: int | None = None
) -> dict[str, object]:
    """Return a thread as the page has it.

    :param stacks: the number of each stack.
    """
    return {
        "label": thread.label,
        "state": thread.state,
        "wchan": thread.wchan,
        "entry": thread.entry,
        "waits_for": thread.waits_for,
        "signals": thread.signals,
        "cpu_ns": thread.cpu_ns,
        "stack": stacks[thread.stack],
        "blocks": thread.tid == blocker,
    }
