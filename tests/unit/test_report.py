# SPDX-License-Identifier: BSD-3-Clause
"""kickbench report: which records it sums up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench_lib import record as files
from bench_lib.cli import main
from bench_lib.errors import (
    ImageError,
    NothingSelected,
    UnknownKernel,
    UnknownRequest,
    UnknownScenario,
)
from bench_lib.record import Kernel, Record, RequestName, ScenarioName, Shape
from tests.make import record

OLD = Kernel("6.1.0-55-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-09-02)")
NEWER = Kernel("6.1.0-56-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.180-1 (2026-10-02)")
OTHER = Kernel("6.12.94", "#1 SMP mine (2026-10-03)")

STARTS = ["2026-10-31T23:59:59.999+00:00", "2026-11-01T00:00:00.000+00:00", "2026-11-02T12:00:00Z"]


def report(*words: str) -> Result:
    return CliRunner().invoke(main, ["report", *words])


def rows(*words: str) -> list[dict[str, object]]:
    done = report(*words, "--json")
    assert done.exit_code == 0, done.output
    found: list[dict[str, object]] = json.loads(done.stdout)["rows"]
    return found


def trials(*words: str) -> int:
    return sum(int(str(row["trials"])) for row in rows(*words))


def write(*records: Record) -> None:
    files.append(Path(".asv/records.jsonl"), *records)


@pytest.fixture
def three_kernels(history: Path) -> None:
    write(*(record(kernel=kernel) for kernel in (OLD, NEWER, OTHER)))


@pytest.fixture
def three_starts(history: Path) -> None:
    write(*(dataclasses.replace(record(), started=each) for each in STARTS))


@pytest.mark.usefixtures("three_kernels")
@pytest.mark.parametrize(
    "names, kernels",
    [
        ([], [OLD, NEWER, OTHER]),
        (["6.12.94"], [OTHER]),
        (["v6.12.94"], [OTHER]),
        (["debian/6.1"], [NEWER]),
        (["6.12.94", "6.1.0-55-amd64"], [OLD, OTHER]),
    ],
    ids=str,
)
def test_kernels_are_named_as_everywhere(names: list[str], kernels: list[Kernel]) -> None:
    found = rows(*(word for name in names for word in ("--kernel", name)))
    assert [row["kernel"] for row in found] == [dataclasses.asdict(each) for each in kernels]


@pytest.mark.usefixtures("three_kernels")
def test_a_name_means_every_build_of_a_release() -> None:
    write(record(kernel=dataclasses.replace(OTHER, version="#2 SMP mine (2026-10-04)")))
    assert len(rows("--kernel", "6.12.94")) == 2


def test_filters_are_combined(history: Path) -> None:
    write(
        *(
            dataclasses.replace(record(scenario=scenario), request=request, shape=Shape(image=name))
            for scenario in (ScenarioName.IDLE, ScenarioName.PAUSED, ScenarioName.BLACKHOLE)
            for request in (RequestName.STOP, RequestName.QUIT)
            for name in ("gup", "uaccess")
        )
    )
    assert trials() == 12
    assert trials("--scenario", "paused") == 4
    assert trials("--scenario", "paused", "--scenario", "idle") == 8
    assert trials("--scenario", "paused", "--scenario", "idle", "--request", "stop") == 4
    found = rows("--scenario", "idle", "--request", "quit", "--image", "uaccess")
    assert [(row["scenario"], row["request"]) for row in found] == [("idle", "quit")]


@pytest.mark.usefixtures("three_starts")
@pytest.mark.parametrize(
    "words, number",
    [
        (["--since", "2026-11-01"], 2),
        (["--until", "2026-11-01"], 2),
        (["--since", "2026-11-01", "--until", "2026-11-01"], 1),
        (["--since", "2026-11-02T12:00"], 1),
        (["--until", "2026-11-02T12:00Z"], 3),
        (["--until", "2026-11-02T11:59:59"], 2),
        (["--until", "2026-11-01T01:00+01:00"], 2),
        (["--since", "2026-11-01T01:30+02:00"], 3),
        (["--since", "0001-01-01", "--until", "9999-12-31"], 3),
        (["--since", "0001-01-01T00:00+14:00"], 3),
    ],
    ids=str,
)
def test_a_date_is_its_whole_day_in_utc(words: list[str], number: int) -> None:
    assert trials(*words) == number


def test_a_record_without_a_readable_start_is_in_no_time_span(history: Path) -> None:
    write(record(), dataclasses.replace(record(), started="yesterday"))
    assert trials() == 2
    assert trials("--until", "9999-12-31") == 1


@pytest.mark.usefixtures("three_kernels")
@pytest.mark.parametrize(
    "words, error, sentence",
    [
        (
            ["--scenario", "blak"],
            UnknownScenario,
            "There is no scenario 'blak'; the scenarios are idle, ",
        ),
        (
            ["--request", "halt"],
            UnknownRequest,
            "There is no request 'halt'; the requests are stop, ",
        ),
        (["--image", "linus"], ImageError, "There is no guest image 'linus'; the images are gup, "),
        (
            ["--kernel", "6.2"],
            UnknownKernel,
            "There are no records of kernel '6.2'; there are records of 6.1.0-55-amd64, "
            "6.1.0-56-amd64, 6.12.94.",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_are_known(
    words: list[str], error: type[ImageError], sentence: str
) -> None:
    done = report(*words)
    assert done.exit_code == error.exit_status
    assert done.output.startswith(f"kickbench: {sentence}")


def test_an_image_that_only_the_records_know_is_known(history: Path) -> None:
    write(dataclasses.replace(record(), shape=Shape(image="of-old")))
    assert trials("--image", "of-old") == 1


@pytest.mark.usefixtures("three_kernels")
@pytest.mark.parametrize("more", [[], ["--json"]], ids=str)
def test_an_empty_selection_has_an_exit_status_of_its_own(more: list[str]) -> None:
    done = report("--scenario", "idle", *more)
    assert done.exit_code == NothingSelected.exit_status == 18
    assert done.stdout == ""
    assert done.stderr == (
        f"kickbench: None of the 3 records in {Path.cwd()}/.asv/records.jsonl matches all options; "
        "`kickbench report` without options shows all records.\n"
    )


def test_without_any_record_a_filter_selects_nothing(history: Path) -> None:
    assert report().exit_code == 0
    assert report("--request", "stop").exit_code == NothingSelected.exit_status
    assert report("--kernel", "6.1").exit_code == UnknownKernel.exit_status


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--since", "last week"], "'last week' is not an ISO 8601 date or date-time"),
        (["--until", "2026-13-01"], "'2026-13-01' is not an ISO 8601 date or date-time"),
        (["--since", "2026-11-02", "--until", "2026-11-01"], "--since is later than --until."),
    ],
)
def test_dates_that_make_no_sense_are_bad_usage(
    history: Path, words: list[str], sentence: str
) -> None:
    done = report(*words)
    assert done.exit_code == 2
    assert sentence in done.output
