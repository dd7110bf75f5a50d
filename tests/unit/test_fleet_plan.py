# SPDX-License-Identifier: BSD-3-Clause
"""What a campaign over a fleet consists of, and how far it is."""

from __future__ import annotations

import dataclasses

import pytest

from bench_lib.fleet.plan import Boot, Plan
from bench_lib.fleet.progress import ATTEMPTS, Underway, listed, what
from bench_lib.fleet.status import CampaignState
from bench_lib.fleet.work import Kind
from bench_lib.record import Host, Kernel, Outcome, Record, RequestName, ScenarioName, Slot
from bench_lib.trial.case import Case
from tests.make import record as a_record

OLD, NEW = Kernel("6.1.0-56-amd64", "#1"), Kernel("6.12.117-amd64", "#1")
CASES = (
    Case(ScenarioName.IDLE, RequestName.STOP),
    Case(ScenarioName.BLACKHOLE, RequestName.STOP),
)
PLAN = Plan(Kind.LAB, (OLD, NEW), CASES, boots=2, hosts=("a", "b"))
ANYWHERE = dataclasses.replace(PLAN, hosts=())


def _records(plan: Plan, host: str, number: int, kernel: Kernel = OLD) -> list[Record]:
    return [
        dataclasses.replace(
            a_record(),
            kernel=kernel,
            host=Host("lab", "tcg", host),
            boot_id=f"{host}-{number}",
            slot=Slot(plan.id, number),
        )
        for _ in plan.cases
    ]


def test_each_host_makes_all_boots_and_kernels_are_interleaved() -> None:
    assert list(PLAN.all_boots()) == [
        Boot(host, number, kernel)
        for number, kernel in enumerate([OLD, NEW, NEW, OLD])
        for host in ("a", "b")
    ]
    assert [boot.host for boot in ANYWHERE.all_boots()] == [None] * 4


@pytest.mark.parametrize(
    "change",
    [
        {"boots": 3},
        {"hosts": ("a",)},
        {"kernels": (NEW, OLD)},
        {"kind": Kind.HOST},
        {"cases": CASES[:1]},
        {"settings": {"KICKBENCH_DEADLINE": "2"}},
        {"name": "again"},
    ],
)
def test_campaigns_that_measure_something_else_have_other_ids(change: dict[str, object]) -> None:
    assert dataclasses.replace(PLAN, **change).id != PLAN.id  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"reboot": True}, {"patience_s": 1.0}, {"hosts": ("b", "a")}])
def test_the_id_does_not_depend_on_how_boots_come_about(change: dict[str, object]) -> None:
    assert dataclasses.replace(PLAN, **change).id == PLAN.id  # type: ignore[arg-type]


def test_a_boot_with_records_is_not_missing() -> None:
    found = PLAN.missing(_records(PLAN, "a", 1))
    assert len(found) == 7
    assert Boot("a", 1, NEW) not in found
    assert Boot("b", 1, NEW) in found


def test_records_of_another_campaign_do_not_count() -> None:
    other = dataclasses.replace(PLAN, name="other")
    assert PLAN.made(_records(other, "a", 1)) == []
    assert PLAN.place(a_record()) is None


def test_any_host_may_have_made_a_boot_that_is_bound_to_none() -> None:
    assert [boot.number for boot in ANYWHERE.missing(_records(ANYWHERE, "z", 2))] == [0, 1, 3]


@pytest.fixture
def underway() -> Underway:
    """A campaign that has begun, of which one boot is recorded."""
    campaign = Underway(PLAN)
    campaign.take(_records(PLAN, "a", 0))
    campaign.start()
    return campaign


def test_a_campaign_goes_on_where_its_records_end(underway: Underway) -> None:
    assert [boot.number for boot in underway.queues["a"]] == [1, 2, 3]
    assert [boot.number for boot in underway.queues["b"]] == [0, 1, 2, 3]
    assert (underway.status().boots, underway.status().done) == (8, 1)


def test_a_boot_that_failed_comes_last_and_one_that_was_broken_off_first(
    underway: Underway,
) -> None:
    first = underway.next("a", lambda boot: True)
    assert first == Boot("a", 1, NEW)
    underway.failed(first, "no room")
    assert [boot.number for boot in underway.queues["a"]] == [2, 3, 1]
    second = underway.next("a", lambda boot: True)
    assert second is not None
    underway.again(second)
    assert [boot.number for boot in underway.queues["a"]] == [2, 3, 1]


def test_a_boot_that_always_fails_is_given_up(underway: Underway) -> None:
    for _ in range(ATTEMPTS):
        boot = underway.next("a", lambda boot: boot.number == 1)
        assert boot is not None
        underway.failed(boot, "on a: no room")
    assert underway.next("a", lambda boot: boot.number == 1) is None
    assert underway.status().missing == (
        f"A boot of {NEW.release} was given up after {ATTEMPTS} attempts: on a: no room",
    )
    underway.start()
    assert Boot("a", 1, NEW) in underway.queues["a"]
    assert underway.status().missing == ()


def test_only_a_boot_that_fits_is_taken(underway: Underway) -> None:
    boot = underway.next("a", lambda boot: boot.kernel == OLD)
    assert boot == Boot("a", 3, OLD)
    assert underway.next("a", lambda boot: boot.kernel == OLD) is None


def test_who_follows_gets_each_record_once(underway: Underway) -> None:
    before = underway.progress(0)
    # The record of before is in the file, but not in what is new.
    assert (before.seen, before.lines) == (2, ())
    lost = dataclasses.replace(
        a_record(), outcome=Outcome.LOST, latency_ns=None, reason="No room.",
        host=Host("lab", "tcg", "b"), slot=Slot(PLAN.id, 0),
    )  # fmt: skip
    underway.made([lost])
    after = underway.progress(before.seen)
    assert (after.seen, len(after.lines), after.status.lost) == (3, 1, 1)
    assert underway.progress(after.seen).lines == ()


def test_a_campaign_is_complete_when_every_boot_has_records(underway: Underway) -> None:
    found = []
    for boot in PLAN.all_boots():
        found.append(underway.complete)
        underway.made(_records(PLAN, boot.host or "", boot.number))
    found.append(underway.complete)
    assert found == [False] * 8 + [True]


def test_host_work_remembers_which_boots_of_a_host_it_has(underway: Underway) -> None:
    assert underway.used("a", "a-0")
    assert not underway.used("a", "a-1")
    assert not underway.used("b", "a-0")


def test_time_left_is_known_once_a_boot_was_made(underway: Underway) -> None:
    before = underway.left_s
    underway.made(_records(PLAN, "b", 0))
    meanwhile = underway.left_s
    underway.state = CampaignState.CANCELLED
    assert (before, meanwhile is None, underway.left_s) == (None, False, None)


def test_a_campaign_in_words() -> None:
    assert what(PLAN) == f"stop in idle, blackhole under {OLD.release} and {NEW.release} (lab)"
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
