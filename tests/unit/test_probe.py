# SPDX-License-Identifier: BSD-3-Clause
import pytest

from bench_lib.errors import UnknownCase
from bench_lib.kvm.cases import CASES, Wake, named
from bench_lib.kvm.offered import Offer
from bench_lib.kvm.probe import Result, verdict
from bench_lib.kvm.programs import KVMCLOCK, PRE_FAULT, PROGRAMS, PV_EOI, Program
from bench_lib.record import Entry, Outcome, WaitsFor


def _result(
    case: str, outcome: Outcome | None, path: Entry | None, wakes_ns: tuple[int, ...] = ()
) -> Result:
    return Result(case, outcome, None, "S", "handle_userfault", path, wakes_ns)


def test_without_names_all_cases_are_probed() -> None:
    assert named([]) == list(CASES)


def test_cases_are_found_by_their_names() -> None:
    assert [each.name for each in named(["uaccess", "healthy"])] == ["uaccess", "healthy"]


def test_an_unknown_case_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        UnknownCase, match=r"no case 'gup'; the cases are healthy, healthy-memslot, "
    ):
        named(["gup"])


def test_no_two_cases_have_the_same_name() -> None:
    assert len({each.name for each in CASES}) == len(CASES)


def test_the_verdict_has_an_answer_per_path() -> None:
    results = [
        _result("healthy", Outcome.RETURNED, Entry.NONE),
        _result("gup-read", Outcome.RETURNED, Entry.GUP),
        _result("kvmclock", Outcome.ASLEEP, Entry.GPC),
        _result("uaccess", Outcome.SPINNING, Entry.UACCESS),
        _result("async-pf", Outcome.RETURNED, Entry.ASYNC_PF),
    ]
    assert verdict(results) == (
        "this kernel lets go of a vCPU stuck in guest memory: "
        "yes (gup), no (uaccess), no (gpc), yes (async-pf)"
    )


def test_memory_from_fuse_has_an_answer_of_its_own() -> None:
    results = [
        _result("gup-write", Outcome.RETURNED, Entry.GUP),
        _result("gup-write-fuse", Outcome.ASLEEP, Entry.GUP),
        _result("uaccess", Outcome.SPINNING, Entry.UACCESS),
    ]
    assert verdict(results).endswith("memory: yes (gup), no (gup from FUSE), no (uaccess)")


def test_an_ioctl_that_is_not_kvm_run_has_an_answer_of_its_own() -> None:
    results = [
        _result("gup-write", Outcome.RETURNED, Entry.GUP),
        _result("pre-fault", Outcome.ASLEEP, Entry.GUP),
        _result("pre-fault-sigint", Outcome.RETURNED, Entry.GUP),
    ]
    assert verdict(results).endswith("memory: yes (gup), no (pre-fault)")


def test_one_case_that_hangs_is_a_no() -> None:
    results = [
        _result("gup-read", Outcome.RETURNED, Entry.GUP),
        _result("gup-write", Outcome.ASLEEP, Entry.GUP),
    ]
    assert verdict(results).endswith("memory: no (gup)")


def test_sigkill_and_lost_cases_do_not_count_for_the_verdict() -> None:
    results = [
        _result("gup-write-sigkill", Outcome.RETURNED, Entry.GUP),
        _result("gup-write", Outcome.LOST, Entry.GUP),
        _result("gup-write-hugetlb", None, None),
    ]
    assert verdict(results).startswith("it is unknown")


def test_cases_that_do_not_call_the_vcpu_do_not_count_for_the_verdict() -> None:
    results = [
        _result("gup-write", Outcome.RETURNED, Entry.GUP),
        _result("gup-write-memslot", Outcome.ASLEEP, Entry.GUP),
        _result("async-pf", Outcome.ASLEEP, Entry.ASYNC_PF),
        _result("async-pf-memslot", Outcome.RETURNED, Entry.ASYNC_PF),
        _result("dead-server", Outcome.RETURNED, Entry.GUP),
    ]
    assert verdict(results).endswith("memory: yes (gup), no (async-pf)")


@pytest.mark.parametrize(
    "name",
    ["gup-write", "uaccess", "steal-time", "pv-eoi", "async-pf-data", "kvmclock", "pre-fault"],
)
def test_the_vcpu_is_called_in_four_ways(name: str) -> None:
    names = [name, f"{name}-sigint", f"{name}-ptrace", f"{name}-sigkill"]
    assert [each.wake for each in named(names)] == [
        Wake.SIGUSR1, Wake.SIGINT, Wake.PTRACE, Wake.SIGKILL
    ]  # fmt: skip


def test_a_case_must_wait_for_what_its_name_promises() -> None:
    fuse, sync, clock, healthy = named(
        ["gup-write-fuse", "gup-write-fuse-sync", "kvmclock", "healthy"]
    )
    assert fuse.waits_for is WaitsFor.PAGE_CACHE
    assert sync.waits_for is WaitsFor.FUSE
    assert clock.waits_for is WaitsFor.USERFAULT
    assert healthy.waits_for is WaitsFor.NOTHING


def test_every_program_has_a_case() -> None:
    assert {each.program for each in CASES} == set(PROGRAMS)


@pytest.mark.parametrize(
    "program, offer, reason",
    [
        (PV_EOI, Offer(1 << 6, pre_faults=False, virtual_apic=False), None),
        (PV_EOI, Offer(1 << 6, pre_faults=False, virtual_apic=True), "avic=0"),
        (PV_EOI, Offer(1 << 5, pre_faults=False, virtual_apic=False), "not offer PV EOI"),
        (KVMCLOCK, Offer(1 << 3, pre_faults=False, virtual_apic=True), None),
        (PRE_FAULT, Offer(0, pre_faults=True, virtual_apic=True), None),
        (PRE_FAULT, Offer(0, pre_faults=False, virtual_apic=True), "no KVM_PRE_FAULT_MEMORY"),
    ],
)
def test_a_program_that_kvm_cannot_run_is_known_with_the_reason(
    program: Program, offer: Offer, reason: str | None
) -> None:
    lacks = offer.lacks(program)
    if reason is None:
        assert lacks is None
    else:
        assert lacks is not None
        assert reason in lacks


def test_times_are_shown_in_microseconds() -> None:
    result = _result("gup-read", Outcome.RETURNED, Entry.GUP, (1000, 2000, 6000))
    assert (result.median_us, result.worst_us) == (2.0, 6.0)
    assert _result("gup-read", Outcome.ASLEEP, Entry.GUP).median_us is None
