# SPDX-License-Identifier: BSD-3-Clause
"""Records of schema 1 give the same results as in the release that wrote them.

That release wrote `data/schema1.jsonl`: a campaign of six boots of two kernels in the lab, and
single trials. To keep the file small, some stages and all mitigations were removed from the lab's
records. Every expectation here is what that release printed for this file.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench_lib import record
from bench_lib.cli import main
from bench_lib.pages import kernels
from tests.conftest import CHECKOUT

NATIVE, OLD, NEW = "6.18.44-fc-v669", "6.1.0-56-amd64", "6.12.117+deb12-amd64"
NEVER = (5_000_000_000, True)

ROWS = [
    (NATIVE, "stop", "idle", "gup", {"returned": 2}, (311323, False), (321118, False), "R 0 none"),
    (NATIVE, "stop", "blackhole", "gup", {"returned": 3}, (495266, False), (1551726, False),
     "S handle_userfault gup"),
    (NATIVE, "stop", "blackhole", "uaccess", {"spinning": 1}, NEVER, NEVER,
     "S handle_userfault uaccess"),
    (NATIVE, "sigkill", "blackhole", "gup", {"returned": 2}, (24182437, False), (26375666, False),
     "S handle_userfault gup"),
    (NATIVE, "stop", "paused", "gup", {"returned": 2}, (515481, False), (535536, False),
     "S handle_userfault gup"),
    (OLD, "stop", "idle", "gup", {"returned": 6}, (14369580, False), (37567150, False), "R 0 none"),
    (OLD, "stop", "blackhole", "gup", {"asleep": 6}, NEVER, NEVER, "D handle_userfault gup"),
    (OLD, "stop", "paused", "gup", {"asleep": 6}, NEVER, NEVER, "D handle_userfault gup"),
    (NEW, "stop", "idle", "gup", {"returned": 6}, (13307920, False), (25017872, False), "R 0 none"),
    (NEW, "stop", "blackhole", "gup", {"returned": 6}, (11970266, False), (44750615, False),
     "S handle_userfault gup"),
    (NEW, "stop", "paused", "gup", {"returned": 6}, (12825911, False), (43397314, False),
     "S handle_userfault gup"),
]  # fmt: skip


@pytest.fixture
def path(history: Path) -> Path:
    """The file as the records of a history."""
    place = history / ".asv" / "records.jsonl"
    place.parent.mkdir()
    shutil.copy(CHECKOUT / "tests" / "data" / "schema1.jsonl", place)
    return place


def said(*words: str, status: int) -> Any:
    done = CliRunner().invoke(main, [*words, "--json"])
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


def _wait(found: dict[str, Any]) -> tuple[int, bool]:
    return found["ns"], found["censored"]


def test_every_record_is_read(path: Path) -> None:
    records, damaged = record.read(path)
    assert len(records) == 46
    assert not damaged
    assert {each.schema for each in records} == {1}


@pytest.mark.usefixtures("path")
def test_the_report_is_the_same_as_then() -> None:
    found = said("report", status=0)
    rows = [
        (
            row["kernel"]["release"],
            row["request"],
            row["scenario"],
            row["shape"]["image"],
            {outcome: number for outcome, number in row["outcomes"].items() if number},
            _wait(row["median"]),
            _wait(row["worst"]),
            " ".join("/".join(row[each]) for each in ("states", "wchans", "entries")),
        )
        for row in found["rows"]
    ]
    assert rows == ROWS
    (recovery,) = found["recoveries"]
    assert (recovery["request"], recovery["scenario"], recovery["asked"]) == ("stop", "paused", 2)
    assert (recovery["whole"], recovery["damaged"], recovery["failed"]) == (2, 0, 0)
    assert (recovery["completed_ns"], recovery["next_pass_ns"]) == (126118252, 74861360)
    assert found["differences"] == []


@pytest.mark.usefixtures("path")
def test_the_gate_passes_as_then() -> None:
    found = said("gate", "debian/6.1", "debian/6.12", status=0)
    assert found["sentence"] == (
        f"{NEW} may follow {OLD}: in 3 of 3 comparisons it is no worse; hangs in up to 39% of "
        "boots are not ruled out."
    )
    assert [(row["scenario"], row["verdict"]) for row in found["rows"]] == [
        ("idle", "pass"), ("blackhole", "pass"), ("paused", "pass"),
    ]  # fmt: skip
    assert [(row["base"]["hung"], row["candidate"]["hung"]) for row in found["rows"]] == [
        (0, 0), (6, 0), (6, 0),
    ]  # fmt: skip
    assert {row["hang_bound"] for row in found["rows"]} == {0.3930377689970827}


@pytest.mark.usefixtures("path")
def test_the_gate_fails_as_then() -> None:
    found = said("gate", "debian/6.12", "debian/6.1", status=1)
    assert found["sentence"] == (
        f"{OLD} must not follow {NEW}: stop in blackhole: hangs more often; has no answer within "
        "5 s (and 1 more)."
    )
    hung = ["hangs more often", "has no answer within 5 s"]
    assert [(row["verdict"], row["reasons"]) for row in found["rows"]] == [
        ("pass", []), ("fail", hung), ("fail", hung),
    ]  # fmt: skip
    # Exactly equal: with one more test per comparison the adjusted p values would differ.
    assert [(row["p_hangs"], row["p_late"]) for row in found["rows"]] == [
        (1.0, 1.0), *[(0.004329004329004329, 9.375000000000003e-08)] * 2,
    ]  # fmt: skip


@pytest.mark.usefixtures("path")
def test_the_gate_refuses_as_then() -> None:
    done = CliRunner().invoke(main, ["gate", OLD, NATIVE])
    assert done.exit_code == 3
    assert "measured on different hosts: vm1 (lab, tcg) and vm1 (native, kvm)" in done.stderr


def test_lost_and_refused_trials_still_measure_nothing(path: Path) -> None:
    """The outcomes of two trials of the newer kernel in `blackhole` are edited."""
    lines = path.read_text().splitlines()
    places = [
        number
        for number, line in enumerate(lines)
        if f'"release":"{NEW}"' in line and '"scenario":"blackhole"' in line
    ]
    for number, outcome in zip(places, ("lost", "refused"), strict=False):
        made = json.loads(lines[number]) | {"outcome": outcome, "reason": "edited"}
        if outcome == "lost":
            made["latency_ns"] = None
        lines[number] = json.dumps(made)
    path.write_text("\n".join(lines) + "\n")
    found = said("gate", OLD, NEW, status=2)
    assert found["verdict"] == "inconclusive"
    assert found["rows"][1]["reasons"] == ["2 of 6 trials of the candidate measured nothing"]
    assert found["rows"][1]["candidate"]["lost"] == 2


def test_the_page_has_a_cell_per_row(path: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    kernels.write(site, record.read(path)[0], history=False)
    script = (site / "matrix.js").read_text()
    data = json.loads(script.removeprefix("kickbench.matrix(").removesuffix(");\n"))
    cells = {
        (row["release"], column["request"], column["place"]): cell
        for row in data["rows"]
        for column, cell in zip(data["columns"], row["cells"], strict=True)
        if cell is not None
    }
    assert len(cells) == len(ROWS)
    assert cells[OLD, "stop", "blackhole"] == [5_000_000_000, True, 6, 6, 0, 0]
    assert cells[NEW, "stop", "blackhole"] == [11970266, False, 6, 0, 0, 0]
    assert {row["release"]: row["boots"] for row in data["rows"]} == {NATIVE: 1, OLD: 6, NEW: 6}
