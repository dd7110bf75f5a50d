# SPDX-License-Identifier: BSD-3-Clause
"""When a host of a fleet is given work, and when it is set aside."""

from __future__ import annotations

import dataclasses
import time

import pytest

from bench_lib.fleet import members
from bench_lib.fleet.members import DROPS, FAILURES, Given, Member
from bench_lib.fleet.status import HostState
from bench_lib.fleet.work import Examined, Finding, Kind
from bench_lib.record import Kernel, Setup
from tests import fleets

OLD, NEW = Kernel("6.1.0-56-amd64", "#1"), Kernel("6.12.117-amd64", "#1")

FACTS = fleets.facts(
    "a",
    NEW,
    machine_id="1" * 32,
    boot_id="b1",
    qemu="8.2.0",
    setup=Setup(governor="performance"),
    clock_ns=10**18,
)


@pytest.fixture
def ready() -> Member:
    """A host that has joined and was examined."""
    member = Member(FACTS)
    member.joined(FACTS, "tls://a:1", "1.0")
    member.was_examined(Examined((Kind.HOST, Kind.LAB)))
    return member


def test_a_host_gets_no_work_before_the_doctor_has_seen_it() -> None:
    member = Member(FACTS)
    assert member.obstacle(Kind.LAB) == "is away"
    member.joined(FACTS, "tls://a:1", "1.0")
    assert member.obstacle(Kind.LAB) == "is being examined by the doctor"
    assert member.state(working=False) is HostState.EXAMINED
    member.was_examined(Examined((Kind.LAB,)))
    assert member.obstacle(Kind.LAB) is None
    assert member.obstacle(Kind.HOST) == "cannot do host work, as the doctor says"


def test_a_host_that_can_do_nothing_is_set_aside_until_it_joins_again(ready: Member) -> None:
    missing = Finding("/dev/kvm", "missing", "It does not exist.")
    ready.was_examined(Examined((), (missing,)))
    assert ready.state(working=False) is HostState.SET_ASIDE
    assert "It does not exist." in (ready.unfit or "")
    ready.joined(FACTS, "tls://a:2", "1.0")
    assert ready.unfit is None


def test_another_version_of_kickbench_keeps_a_host_from_working() -> None:
    member = Member(FACTS)
    member.joined(FACTS, "tls://a:1", "1.1")
    member.was_examined(Examined((Kind.LAB,)))
    assert "kickbench 1.0" in (member.obstacle(Kind.LAB) or "")


def test_a_host_is_set_aside_after_failures_in_a_row(ready: Member) -> None:
    for kernel in (OLD, NEW):
        ready.has_failed(kernel, "no room")
    ready.succeeded(NEW, lost=1, barren=False)
    assert (ready.boots, ready.lost, ready.failed) == (1, 1, [])
    for kernel in (OLD, NEW, OLD):
        assert ready.aside is None
        ready.has_failed(kernel, "no room")
    assert ready.aside == f"{FAILURES} boots failed in a row; the last one: no room"


def test_a_kernel_that_never_boots_does_not_set_a_host_aside_that_boots_others(
    ready: Member,
) -> None:
    ready.succeeded(NEW, lost=0, barren=False)
    for _ in range(FAILURES + 1):
        ready.has_failed(OLD, "it does not boot")
    assert ready.aside is None


def test_two_kernels_that_never_boot_do_not_either(ready: Member) -> None:
    ready.succeeded(Kernel("6.6", "#1"), lost=0, barren=False)
    for kernel in (OLD, NEW) * FAILURES:
        ready.has_failed(kernel, "it does not boot")
    assert ready.aside is None
    ready.has_failed(Kernel("6.6", "#1"), "no room")
    assert ready.aside is not None


def test_a_host_that_loses_every_trial_is_set_aside(ready: Member) -> None:
    for _ in range(FAILURES):
        assert ready.aside is None
        ready.succeeded(NEW, lost=4, barren=True)
    assert ready.aside == f"every trial of {FAILURES} boots in a row was lost"


def test_a_host_has_room_for_what_it_is_not_busy_with() -> None:
    facts = dataclasses.replace(FACTS, kinds=(Kind.LAB,), room=2)
    member = Member(facts)
    member.joined(facts, "tls://a:1", "1.0")
    before = member.room(Kind.LAB)
    member.was_examined(Examined((Kind.LAB,)))
    member.busy += 1
    assert (before, member.room(Kind.LAB), member.room(Kind.HOST)) == (0, 1, 0)
    member.free("tls://a:2")  # of a connection that is gone
    assert member.room(Kind.LAB) == 1
    member.free("tls://a:1")
    assert member.room(Kind.LAB) == 2


def test_lost_connections_set_a_host_aside_later_than_failures(ready: Member) -> None:
    for _ in range(DROPS - 1):
        ready.was_dropped()
    assert ready.aside is None
    ready.was_dropped()
    assert ready.aside is not None


def test_a_host_that_was_told_to_reboot_may_lose_its_connection(ready: Member) -> None:
    ready.boots_into(OLD.release, "campaign")
    for _ in range(DROPS):
        ready.was_dropped()
    assert ready.aside is None
    assert ready.obstacle(Kind.HOST) == f"is booting {OLD.release}"
    assert ready.state(working=False) is HostState.REBOOTING


def test_a_host_that_never_boots_what_it_should_is_set_aside(ready: Member) -> None:
    ready.succeeded(NEW, lost=0, barren=False)
    for _ in range(FAILURES):
        assert ready.aside is None
        ready.boots_into(OLD.release, "campaign")
        ready.reboot_failed("it came back with another kernel")
    assert ready.aside is not None
    assert ready.booting is None


def test_the_operator_can_readmit_a_host(ready: Member) -> None:
    ready.set_aside("it is broken")
    ready.drain()
    ready.unfit = "it has another QEMU"
    assert ready.obstacle(Kind.LAB) == "is set aside: it is broken"
    ready.readmit()
    assert ready.obstacle(Kind.LAB) is None


def test_a_drained_host_finishes_its_work_and_gets_no_more(ready: Member) -> None:
    ready.drain()
    assert ready.obstacle(Kind.LAB) == "is drained"
    assert ready.status([Given("boot 1", 0.0)], []).doing == ("boot 1",)


def test_a_host_has_worked_since_it_was_given_its_work(ready: Member) -> None:
    now = time.monotonic()
    ready.since = now - 1000
    working = ready.status([Given("boot 1", now - 10), Given("boot 2", now - 20)], [])
    assert (working.state, round(working.since_s)) == (HostState.WORKING, 20)
    ready.succeeded(NEW, lost=0, barren=False)
    assert ready.status([], []).since_s < 500


@pytest.mark.parametrize(
    "off_s, words",
    [(0, None), (29, None), (-7200, "7200 s behind"), (3600, "3600 s ahead of")],
)
def test_a_clock_that_is_wrong_is_reported(off_s: int, words: str | None) -> None:
    now_ns = 10**18
    note = members.clock_note(dataclasses.replace(FACTS, clock_ns=now_ns + off_s * 10**9), now_ns)
    assert (note is None) if words is None else (note is not None and words in note)


def test_a_host_that_differs_from_all_others_is_named() -> None:
    odd = dataclasses.replace(FACTS, name="b", qemu="9.0.0")
    assert members.differences(odd, [FACTS, FACTS]) == (
        "It has QEMU 9.0.0; the other hosts have 8.2.0.",
    )
    assert members.differences(FACTS, [FACTS, odd]) == ()
    assert members.differences(FACTS, []) == ()
