# SPDX-License-Identifier: BSD-3-Clause
"""Select the parameter values that asv measures, so that it keeps its results of the others.

asv keeps one result per benchmark, kernel and environment. It has the values that the parameter
listed when the benchmark last ran. If KICKBENCH_SET=core shortened the list, the results of the
full set would be lost. So benchmarks list all values as soon as a history has a result of the full
set, and asv is made to select the core values, as `--bench` does. Then asv keeps the other results.
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
    CORE_PROBES,
    CORE_STALLS,
    CORE_SWITCHES,
    FULL,
    GUESTS,
    PROBES,
    STALLS,
    SWITCHES,
    measured,
)
from bench_lib.settings import Settings

_discover = Benchmarks.discover.__func__


def holds_full(results: Path) -> bool:
    """Whether asv has a result for a value that only the full set measures.

    :param results: asv's folder of results.
    """
    values = {*FULL, *GUESTS, *SWITCHES, *STALLS, *PROBES} - {
        *CORE,
        *CORE_GUESTS,
        *CORE_SWITCHES,
        *CORE_STALLS,
        *CORE_PROBES,
    }
    words = [json.dumps(repr(value)).encode() for value in values]
    return any(
        word in text
        for text in (path.read_bytes() for path in results.rglob("*.json"))
        for word in words
    )


def _narrowed(cls: type, /, *arguments: object, **options: object) -> Any:
    """Discover benchmarks as asv does, without the values that the set does not measure."""
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
            f"Only KICKBENCH_SET=full measures these values of {', '.join(left_out)}; set it."
        )
    return found


def install() -> None:
    """Make asv discover benchmarks with this selection."""
    Benchmarks.discover = classmethod(_narrowed)
