# SPDX-License-Identifier: BSD-3-Clause
"""Which values of a benchmark's parameter asv measures, so that it keeps what it has of the others.

asv keeps one result a benchmark, kernel and environment, with the values that its parameter had
when it was measured last. So a parameter that loses values with KICKBENCH_SET=core would lose what
the full set had measured of them. Therefore benchmarks list all values as soon as a history has a
result of the full set, and asv is told to measure only those of the core set, as it can be with
`--bench`: then it keeps the others.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from asv.benchmarks import Benchmarks
from asv.util import UserError

from bench_lib.asv_bridge.suite import (
    CORE,
    CORE_GUESTS,
    CORE_SWITCHES,
    FULL,
    GUESTS,
    SWITCHES,
    measured,
)
from bench_lib.settings import Settings

_discover = Benchmarks.discover.__func__


def holds_full(results: Path) -> bool:
    """Whether asv keeps a result of a value that only the full set measures.

    :param results: asv's folder of them.
    """
    values = {*FULL, *GUESTS, *SWITCHES} - {*CORE, *CORE_GUESTS, *CORE_SWITCHES}
    words = [json.dumps(repr(value)).encode() for value in values]
    return any(
        word in text
        for text in (path.read_bytes() for path in results.rglob("*.json"))
        for word in words
    )


def _narrowed(cls: type, /, *arguments: object, **options: object) -> Any:
    """Discover benchmarks as asv does, and leave out what the set does not measure."""
    settings = Settings.from_environment()
    found = _discover(cls, *arguments, **options)
    left_out = []
    for name, benchmark in list(found.items()):
        if len(benchmark["params"]) != 1:
            continue
        values = [ast.literal_eval(each) for each in benchmark["params"][0]]
        wanted = measured(values, settings)
        selection = found.benchmark_selection
        chosen = [index for index in selection[name] if values[index] in wanted]
        if not chosen:
            del found[name]
            left_out.append(name)
        selection[name] = chosen
    if left_out and not found:
        raise UserError(
            f"KICKBENCH_SET=full alone measures what was asked for of {', '.join(left_out)}."
        )
    return found


def install() -> None:
    """Have asv discover benchmarks in that way."""
    Benchmarks.discover = classmethod(_narrowed)
