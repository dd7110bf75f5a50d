# SPDX-License-Identifier: BSD-3-Clause
"""The gate compares latencies only of trials whose vCPUs were stuck on the same paths."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence

import pytest
from rich.console import Console

from bench_lib import present
from bench_lib.cli.gate import to_json
from bench_lib.record import (
    Entry,
    Evidence,
    Host,
    Kernel,
    Outcome,
    Record,
    ScenarioName,
    Shape,
    WaitsFor,
)
from bench_lib.verdict import gate, junit
from bench_lib.verdict.comparison import Verdict
from bench_lib.verdict.gate import Gate
from tests.make import STUCK, thread
from tests.make import record as make

OLD, NEW = Kernel("6.1.0", "#1"), Kernel("6.12.0", "#1")
GUP = (Entry.GUP, Entry.GUP)
UACCESS = (Entry.UACCESS, Entry.UACCESS)
BOTH = (Entry.UACCESS, Entry.GUP)


def boots(
    kernel: Kernel,
    count: int,
    *trials: tuple[Sequence[Entry], float | None],
    scenario: ScenarioName = ScenarioName.FROZEN_SOURCE,
    host: Host | None = None,
) -> list[Record]:
    """Boots with the same trials, of which each has its vCPUs' entries and its latency in ms."""
    made = []
    for number in range(count):
        for entries, ms in trials:
            outcome = Outcome.SPINNING if ms is None else Outcome.RETURNED
            latency = None if ms is None else ms * (1 + number % 3 / 100)
            one = make(outcome, latency, kernel=kernel, scenario=scenario)
            vcpus = tuple(
                dataclasses.replace(
                    thread("S", "handle_userfault", STUCK, entry, WaitsFor.USERFAULT), vcpu=vcpu
                )
                for vcpu, entry in enumerate(entries)
            )
            made.append(
                dataclasses.replace(
                    one,
                    boot_id=f"{kernel.release} {number}",
                    shape=Shape(vcpus=2),
                    evidence=Evidence(vcpus),
                    host=host or one.host,
                )
            )
    return made


def judged(*records: Sequence[Record]) -> Gate:
    return gate.compare([each for group in records for each in group], OLD, NEW)


def test_a_slow_path_of_the_candidate_is_not_compared_with_a_fast_one_of_the_baseline() -> None:
    found = judged(boots(OLD, 8, (GUP, 1), (GUP, 1)), boots(NEW, 8, (GUP, 1), (BOTH, 30)))
    assert found.verdict is Verdict.PASS
    (row,) = found.rows
    assert row.ratio is not None
    assert row.ratio.high < 1.25
    assert row.mixes is not None
    assert (row.mixes.base, row.mixes.candidate) == (
        {"2 gup": 16},
        {"1 gup, 1 uaccess": 8, "2 gup": 8},
    )
    assert row.mixes.common == ("2 gup",)


def test_a_candidate_that_is_slower_on_the_same_path_fails() -> None:
    found = judged(
        boots(OLD, 8, (GUP, 1), (BOTH, 30)), boots(NEW, 8, (GUP, 3), (GUP, 3), (BOTH, 30))
    )
    assert found.verdict is Verdict.FAIL
    assert found.rows[0].reasons == ("takes more than 1.25 times as long",)


def test_a_candidate_that_gets_the_guest_stuck_elsewhere_and_hangs_fails() -> None:
    found = judged(boots(OLD, 8, (GUP, 1)), boots(NEW, 8, (UACCESS, None)))
    assert found.verdict is Verdict.FAIL
    (row,) = found.rows
    assert row.reasons == ("hangs more often", "has no answer within 1 s")
    assert row.ratio is None
    assert (row.p_slower, row.p_stalls) == (None, None)
    assert row.mixes is not None
    assert row.mixes.common == ()


def test_without_a_common_mix_hangs_alone_decide() -> None:
    found = judged(boots(OLD, 8, (GUP, 1)), boots(NEW, 8, (BOTH, 30)))
    assert found.verdict is Verdict.PASS
    assert found.rows[0].ratio is None


def test_the_mix_with_most_trials_of_both_kernels_comes_first() -> None:
    found = judged(
        boots(OLD, 8, (GUP, 1), (BOTH, 5), (BOTH, 5)),
        boots(NEW, 8, (GUP, 1), (BOTH, 5), (BOTH, 5), (UACCESS, 9), (UACCESS, 9), (UACCESS, 9)),
    )
    assert found.rows[0].mixes is not None
    assert found.rows[0].mixes.common == ("1 gup, 1 uaccess", "2 gup")


def test_the_ratio_is_that_of_the_mix_that_rejects_the_candidate() -> None:
    found = judged(
        boots(OLD, 8, (GUP, 1), (BOTH, 5), (BOTH, 5)),
        boots(NEW, 8, (GUP, 3), (BOTH, 5), (BOTH, 5)),
    )
    assert found.verdict is Verdict.FAIL
    ratio = found.rows[0].ratio
    assert ratio is not None
    assert ratio.low > 2


def test_stalls_are_counted_in_the_compared_trials_only() -> None:
    found = judged(boots(OLD, 8, (GUP, 1)), boots(NEW, 8, (GUP, 1), (BOTH, 900)))
    assert found.verdict is Verdict.PASS


def test_boots_without_comparable_trials_raise_the_number_of_boots_that_are_needed() -> None:
    """Two of eight boots have a trial that can be compared, and four of those are needed."""
    records = [
        *boots(OLD, 2, (GUP, 1)),
        *boots(OLD, 8, (BOTH, 5))[2:],
        *boots(NEW, 2, (GUP, 1)),
        *boots(NEW, 8, (UACCESS, 5))[2:],
    ]
    found = judged(records)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.boots_needed == 16


@pytest.mark.parametrize("scenario", [ScenarioName.IDLE, ScenarioName.POSTCOPY])
def test_where_the_vcpus_of_a_guest_that_runs_are_is_chance(scenario: ScenarioName) -> None:
    runs, faults = (Entry.NONE, Entry.NONE), (Entry.NONE, Entry.GUP)
    found = judged(
        boots(OLD, 8, (runs, 1), scenario=scenario), boots(NEW, 8, (faults, 3), scenario=scenario)
    )
    assert found.rows[0].mixes is None
    assert found.verdict is Verdict.FAIL


def test_kernels_with_one_mix_are_compared_without_a_note() -> None:
    found = judged(boots(OLD, 8, (GUP, 1)), boots(NEW, 8, (GUP, 1)))
    assert found.rows[0].mixes is None
    assert "stuck" not in _text(found)


COUNTED = (
    "stop in frozen-source (2 vCPUs): trials differ in where the vCPUs were stuck: baseline "
    "[2 gup] in 8; candidate [1 gup, 1 uaccess] in 8"
)


def test_the_note_names_the_mixes_and_how_many_trials_had_each() -> None:
    both = judged(boots(OLD, 8, (GUP, 1)), boots(NEW, 8, (BOTH, 1), (GUP, 1)))
    none = judged(boots(OLD, 8, (GUP, 1)), boots(NEW, 8, (BOTH, 1)))
    for found, end in (
        (
            both,
            ", [2 gup] in 8. Hangs are judged over all trials; latencies can be compared only "
            "between trials of [2 gup].",
        ),
        (
            none,
            ". Hangs are judged over all trials; no latencies can be compared, because the two "
            "kernels have no mix in common.",
        ),
    ):
        assert COUNTED + end in _text(found)
        assert COUNTED + end in junit.document(found).decode()


def test_under_emulation_the_mixes_are_named_too() -> None:
    tcg = Host("lab", "tcg", "somewhere")
    found = judged(boots(OLD, 8, (GUP, 1), host=tcg), boots(NEW, 8, (BOTH, 99), host=tcg))
    assert COUNTED in _text(found)
    assert found.rows[0].p_slower is None


def test_the_mixes_are_in_the_json() -> None:
    found = judged(boots(OLD, 8, (GUP, 1)), boots(NEW, 8, (BOTH, 1)))
    (row,) = json.loads(to_json(found))["rows"]
    assert row["mixes"] == {
        "base": {"2 gup": 8}, "candidate": {"1 gup, 1 uaccess": 8}, "common": [],
    }  # fmt: skip


def _text(found: Gate) -> str:
    console = Console(file=io.StringIO(), width=2000)
    present.gate(console, found)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text
