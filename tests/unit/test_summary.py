# SPDX-License-Identifier: BSD-3-Clause
import dataclasses

import pytest

from bench_lib.record import (
    FAILED,
    Entry,
    Evidence,
    Kernel,
    Outcome,
    Record,
    ScenarioName,
    Setup,
    Shape,
    WaitsFor,
)
from bench_lib.verdict import pace, summary
from bench_lib.verdict.summary import Wait
from tests.make import MS, record, thread

HUNG = Wait(5_000 * MS, censored=True)


def test_a_row_counts_every_outcome() -> None:
    (row,) = summary.rows([record(outcome) for outcome in Outcome])
    assert row.trials == len(Outcome)
    assert row.outcomes == dict.fromkeys(Outcome, 1)
    assert row.entries == (Entry.GUP,)


def test_each_kernel_and_scenario_has_its_own_row() -> None:
    other = Kernel("6.12", "#1")
    rows = summary.rows(
        [record(), record(kernel=other), record(scenario=ScenarioName.PAUSED), record()]
    )
    assert [row.trials for row in rows] == [2, 1, 1]


def test_the_median_is_a_lower_bound_if_half_of_the_trials_hang() -> None:
    returned, hung = record(latency_ms=2.0), record(Outcome.ASLEEP)

    def median(*records: object) -> Wait | None:
        return summary.rows(records)[0].median  # type: ignore[arg-type]

    assert median(returned, record(latency_ms=4.0)) == Wait(3 * MS, censored=False)
    assert median(returned, returned, hung) == Wait(2 * MS, censored=False)
    assert median(returned, hung) == Wait(2 * MS, censored=True)
    assert median(returned, hung, hung) == HUNG


def test_the_worst_is_a_hang_if_there_is_one() -> None:
    (row,) = summary.rows([record(Outcome.SPINNING), record(latency_ms=4_000.0)])
    assert row.worst == HUNG


def test_with_different_deadlines_a_bound_is_the_lower_one() -> None:
    early = dataclasses.replace(record(Outcome.ASLEEP), deadline_ns=1_000 * MS)
    (row,) = summary.rows([early, record(latency_ms=4_000.0)])
    assert row.worst == Wait(4_000 * MS, censored=True)
    (row,) = summary.rows([early, record(Outcome.ASLEEP)])
    assert row.median == Wait(1_000 * MS, censored=True)


def test_lost_trials_are_never_scored() -> None:
    (row,) = summary.rows([record(Outcome.LOST)])
    assert row.median is row.worst is row.refused_median is None
    assert row.states == ()


def test_refusals_are_summarized_apart_from_answers() -> None:
    refused = [record(Outcome.REFUSED, ms) for ms in (10.0, 30.0)]
    (row,) = summary.rows([record(latency_ms=2.0), *refused])
    assert row.median == row.worst == Wait(2 * MS, censored=False)
    assert row.refused_median == Wait(20 * MS, censored=False)
    assert row.refused_worst == Wait(30 * MS, censored=False)
    (row,) = summary.rows(refused)
    assert row.median is None


@pytest.mark.parametrize("outcome", sorted(FAILED))
def test_a_trial_without_an_answer_is_censored_at_its_deadline(outcome: Outcome) -> None:
    (row,) = summary.rows([record(outcome)])
    assert row.median == row.worst == HUNG
    assert row.failed == 1


def test_a_row_in_json_has_the_parts_of_its_key_as_keys() -> None:
    (row,) = summary.rows([record()])
    found = summary.flat(row)
    assert set(found) == {
        "kernel", "host", "scenario", "request", "manager", "shape", "trials", "outcomes", "median",
        "worst", "refused_median", "refused_worst", "states", "wchans", "entries", "mixes",
        "waits_for", "mechanisms",
    }  # fmt: skip
    assert (found["request"], found["waits_for"]) == ("stop", ("userfault",))


def mixed(*entries: Entry) -> Record:
    vcpus = tuple(
        dataclasses.replace(thread("S", "0", (), entry, WaitsFor.USERFAULT), vcpu=number)
        for number, entry in enumerate(entries)
    )
    return dataclasses.replace(
        record(), evidence=Evidence(vcpus), shape=Shape(vcpus=len(entries) or 1)
    )


@pytest.mark.parametrize(
    "entries, mix",
    [
        ([], ""),
        ([Entry.GUP], "gup"),
        ([Entry.GUP] * 255, "255 gup"),
        (
            [Entry.ASYNC_PF, Entry.UACCESS, Entry.GUP, Entry.UACCESS],
            "2 uaccess, 1 gup, 1 async-pf",
        ),
    ],
)
def test_the_mix_counts_the_vcpus_on_each_path(entries: list[Entry], mix: str) -> None:
    assert mixed(*entries).evidence.mix == mix


def test_a_row_counts_the_mixes_of_its_trials() -> None:
    first, second = mixed(Entry.GUP, Entry.UACCESS), mixed(Entry.UACCESS, Entry.UACCESS)
    lost = dataclasses.replace(mixed(Entry.NONE, Entry.NONE), outcome=Outcome.LOST)
    (row,) = summary.rows([first, second, second, lost])
    assert list(row.mixes.items()) == [("2 uaccess", 2), ("1 gup, 1 uaccess", 1)]


def test_the_pace_leaves_out_lost_trials() -> None:
    assert not pace.paces([record(Outcome.LOST)])
    (found,) = pace.paces([record(), record()])
    assert (found.trials, found.median_ns) == (2, 350 * MS)
    assert [(stage.name, stage.median_ns) for stage in found.stages] == [
        ("start", 80 * MS),
        ("release", 50 * MS),
    ]


def test_guests_of_different_shapes_have_paces_of_their_own() -> None:
    big = dataclasses.replace(record(), shape=Shape(vcpus=4))
    found = pace.paces([record(), big])
    assert [each.place for each in found] == ["blackhole", "blackhole (4 vCPUs)"]
    staging = [each.by_vcpu[0].median_ns for each in found]
    assert staging == [80 * MS, 20 * MS]


def test_machines_of_one_name_are_reported() -> None:
    first, other = (dataclasses.replace(record(), machine_id=each) for each in ("0a", "0b"))
    (found,) = summary.differences([record(), first, other])
    assert (found.name, found.values) == ("machine id", ("0a", "0b"))


def test_different_guest_images_are_reported() -> None:
    first, other = (dataclasses.replace(record(), image_sha256=sha) for sha in ("ab", "cd"))
    (found,) = summary.differences([record(), first, other])
    assert (found.name, found.values) == ("sha256 of the image gup", ("ab", "cd"))


def test_different_stores_are_reported() -> None:
    first, other = (
        dataclasses.replace(record(scenario=ScenarioName.FUSE_HOLD), store=store)
        for store in ("FUSE (libfuse 3.14.0)", "FUSE (libfuse 3.16.2)")
    )
    (found,) = summary.differences([record(scenario=ScenarioName.FUSE_HOLD), first, other])
    assert found.name == "store of fuse-hold"
    assert found.values == ("FUSE (libfuse 3.14.0)", "FUSE (libfuse 3.16.2)")


def test_different_kernels_of_guests_are_reported() -> None:
    first, other = (
        dataclasses.replace(record(), guest_kernel=Kernel("6.12", each)) for each in ("#1", "#2")
    )
    (found,) = summary.differences([record(), first, other])
    assert (found.name, found.values) == ("kernel of the guest", ("6.12 #1", "6.12 #2"))


def test_different_qemus_of_labs_are_reported() -> None:
    first, other = (dataclasses.replace(record(), lab_qemu=each) for each in ("7.2.22", "11.1.3"))
    (found,) = summary.differences([record(), first, other])
    assert (found.name, found.values) == ("QEMU of the lab", ("7.2.22", "11.1.3"))


def test_settings_of_storage_differ_only_for_trials_of_that_family() -> None:
    def made(scenario: ScenarioName, **facts: object) -> Record:
        return dataclasses.replace(record(scenario=scenario), setup=Setup(**facts))  # type: ignore[arg-type]

    for scenario, count in ((ScenarioName.BLACKHOLE, 0), (ScenarioName.FUSE_HOLD, 2)):
        before = made(scenario, fuse_request_timeout=0, swap=())
        after = made(scenario, fuse_request_timeout=60, swap=("/dev/dm-0 (partition)",))
        found = summary.differences([before, after])
        assert [(each.name, each.values) for each in found] == [
            ("fuse request timeout", ("0", "60")),
            ("swap", ("none", "/dev/dm-0 (partition)")),
        ][:count]


def test_different_set_ups_are_reported_but_not_different_loads() -> None:
    def made(**facts: object) -> Record:
        return dataclasses.replace(record(), setup=Setup(**facts))  # type: ignore[arg-type]

    first, again = made(smt=True, load=0.1), made(smt=True, load=9.0)
    assert not summary.differences([record(), first, again])
    other = made(smt=False, mitigations={"mds": "Vulnerable"})
    elsewhere = dataclasses.replace(other, kernel=Kernel("6.12", "#1"))
    assert not summary.differences([first, elsewhere])
    found = summary.differences([first, other])
    assert [(each.name, each.values) for each in found] == [
        ("smt", ("on", "off")),
        ("mitigations", ("none", "mds: Vulnerable")),
    ]
