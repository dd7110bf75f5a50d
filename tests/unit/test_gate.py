# SPDX-License-Identifier: BSD-3-Clause
"""What the gate passes, fails, and refuses to compare."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from click.testing import CliRunner

from bench_lib import record
from bench_lib.cli import main
from bench_lib.errors import CannotCompare
from bench_lib.record import (
    Host,
    Kernel,
    Outcome,
    Record,
    Recovery,
    RequestName,
    ScenarioName,
    Setup,
    Shape,
)
from bench_lib.units import NS_PER_S
from bench_lib.verdict import gate, junit
from bench_lib.verdict.comparison import Verdict
from bench_lib.verdict.gate import Gate
from bench_lib.verdict.terms import DEFAULT_TERMS, Terms
from tests.make import record as make

OLD = Kernel("6.1.0-55-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.190-1 (2026-10-01)")
NEW = Kernel("6.1.0-56-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)")

NATIVE = Host("native", "kvm", "somewhere")
EMULATED = Host("lab", "tcg", "somewhere")


def boots(
    kernel: Kernel,
    *latencies_ms: Sequence[float | None],
    host: Host = NATIVE,
    boot: str = "",
    **changes: object,
) -> list[Record]:
    """A boot for each sequence, with a trial for each latency; None is a trial that hung.

    :param boot: a part of the boots' ids.
    """
    return [
        dataclasses.replace(
            make(Outcome.ASLEEP if ms is None else Outcome.RETURNED, ms, kernel=kernel),
            boot_id=f"{kernel.release} {boot}{number}",
            host=host,
            **changes,  # type: ignore[arg-type]
        )
        for number, trials in enumerate(latencies_ms)
        for ms in trials
    ]


def steady(kernel: Kernel, count: int, level_ms: float = 1.0, **options: object) -> list[Record]:
    """Boots whose latencies differ by a few per cent."""
    rows = [[level_ms * (1 + number % 3 / 100)] * 2 for number in range(count)]
    return boots(kernel, *rows, **options)  # type: ignore[arg-type]


def hanging(kernel: Kernel, count: int, **options: object) -> list[Record]:
    return boots(kernel, *[[None, None]] * count, **options)  # type: ignore[arg-type]


def judged(records: Sequence[Record], terms: Terms = DEFAULT_TERMS, **options: Any) -> Gate:
    return gate.compare(records, OLD, NEW, terms, **options)


def test_kernels_that_are_alike_pass() -> None:
    found = judged([*steady(OLD, 6), *steady(NEW, 6)])
    assert found.verdict is Verdict.PASS
    (row,) = found.rows
    assert row.ratio is not None
    assert row.ratio.high < 1.25
    assert (
        found.sentence
        == "6.1.0-56-amd64 may follow 6.1.0-55-amd64: in 1 of 1 comparisons it is no worse; hangs "
        "in up to 39% of boots are not ruled out."
    )


def test_too_few_boots_are_inconclusive_and_the_needed_number_is_named() -> None:
    found = judged([*steady(OLD, 2), *steady(NEW, 2)])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.boots_needed == 5
    assert found.sentence.endswith("5 boots per kernel would settle it.")


def test_more_hangs_fail_and_are_the_first_reason() -> None:
    found = judged([*steady(OLD, 5), *hanging(NEW, 5)])
    assert found.verdict is Verdict.FAIL
    (row,) = found.rows
    assert row.reasons[0] == "hangs more often"
    assert row.ratio is not None
    assert math.isinf(row.ratio.high)


def test_a_candidate_that_no_longer_hangs_passes() -> None:
    found = judged([*hanging(OLD, 5), *steady(NEW, 5)])
    assert found.verdict is Verdict.PASS


def test_a_limit_holds_even_if_the_baseline_exceeds_it() -> None:
    records = [*hanging(OLD, 5), *hanging(NEW, 5)]
    found = judged(records)
    assert found.verdict is Verdict.FAIL
    assert found.rows[0].reasons == ("has no answer within 1 s",)
    assert judged(records, Terms(limits_ns={})).verdict is not Verdict.FAIL


@pytest.mark.parametrize(
    ("level_ms", "verdict"),
    [
        (1.05, Verdict.PASS),
        (1.24, Verdict.INCONCLUSIVE),
        (1.30, Verdict.FAIL),
        (3.0, Verdict.FAIL),
    ],
)
def test_slower_fails_beyond_the_tolerance(level_ms: float, verdict: Verdict) -> None:
    found = judged([*steady(OLD, 8), *steady(NEW, 8, level_ms)])
    assert found.verdict is verdict


def test_a_wide_spread_is_inconclusive_not_passed() -> None:
    wild = [[1.0], [2.0], [0.5], [1.5], [0.7]]
    found = judged([*boots(OLD, *wild), *boots(NEW, *wild)])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "as long" in found.rows[0].reasons[0]


def test_emulated_milliseconds_are_not_judged() -> None:
    found = judged([*steady(OLD, 5, host=EMULATED), *steady(NEW, 5, 3.0, host=EMULATED)])
    assert found.verdict is Verdict.PASS
    assert found.emulated
    assert found.rows[0].ratio is None
    # Ten times one second, but not longer than the deadline.
    assert found.rows[0].limit_ns == 5 * NS_PER_S
    hangs = judged([*steady(OLD, 5, host=EMULATED), *hanging(NEW, 5, host=EMULATED)])
    assert hangs.verdict is Verdict.FAIL


def test_many_lost_trials_are_inconclusive() -> None:
    lost = [dataclasses.replace(make(Outcome.LOST, kernel=NEW), host=NATIVE)] * 2
    found = judged([*steady(OLD, 6), *steady(NEW, 6), *lost])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.rows[0].reasons == ("2 of 14 trials of the candidate measured nothing",)


def test_only_lost_trials_are_inconclusive() -> None:
    lost = [dataclasses.replace(make(Outcome.LOST, kernel=NEW), host=NATIVE)] * 4
    found = judged([*steady(OLD, 6), *lost])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.boots_needed is None


def test_more_comparisons_need_more_evidence() -> None:
    """Holm's adjustment: a result that rejects alone may not reject among ten."""
    one = judged([*steady(OLD, 4), *hanging(NEW, 4)], Terms(limits_ns={}))
    assert one.verdict is Verdict.FAIL
    records = [*steady(OLD, 4), *hanging(NEW, 4)]
    for scenario in list(ScenarioName)[3:9]:
        records += [*steady(OLD, 4, scenario=scenario), *steady(NEW, 4, scenario=scenario)]
    assert judged(records, Terms(limits_ns={})).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"host": Host("native", "kvm", "elsewhere")}, r"different hosts: somewhere .* elsewhere"),
        ({"image_sha256": "cd"}, "different guest images: ab, cd"),
        ({"guest_kernel": Kernel("6.12", "#2")}, "different guest kernels: 6.12 #1, 6.12 #2"),
        ({"qemu": "10.0.0"}, "different QEMUs"),
        ({"manager_version": "libvirt 11.3.0"}, "different libvirts"),
        ({"lab_qemu": "10.0.0"}, "different QEMUs of the lab"),
        ({"deadline_ns": 10**9}, "different deadlines: 1 s, 5 s"),
        ({"setup": Setup(governor="powersave")}, "different settings of governor: performance, p"),
    ],
)
def test_records_with_different_conditions_are_compared_only_if_asked_to(
    changes: dict[str, object], what: str
) -> None:
    as_before = {
        "setup": Setup(governor="performance"),
        "image_sha256": "ab",
        "guest_kernel": Kernel("6.12", "#1"),
        "manager_version": "libvirt 9.0.0",
        "lab_qemu": "7.2.22",
    }
    old = [
        dataclasses.replace(each, **as_before)  # type: ignore[arg-type]
        for each in steady(OLD, 5)
    ]
    new = [
        dataclasses.replace(each, **{**as_before, **changes})  # type: ignore[arg-type]
        for each in steady(NEW, 5)
    ]
    with pytest.raises(CannotCompare, match=what):
        judged([*old, *new])
    assert judged([*old, *new], whatever_differs=True).verdict is Verdict.PASS


def test_keys_that_one_kernel_lacks_are_not_compared() -> None:
    more = steady(OLD, 5, scenario=ScenarioName.PAUSED)
    with pytest.raises(CannotCompare, match=r"lacks trials that .* has: stop in paused"):
        judged([*steady(OLD, 5), *more, *steady(NEW, 5)])
    more = hanging(NEW, 5, scenario=ScenarioName.PAUSED)
    with pytest.raises(
        CannotCompare, match=r"^6\.1\.0-55.* lacks trials that .* has: stop in paused"
    ):
        judged([*steady(OLD, 5), *steady(NEW, 5), *more])


def test_one_late_answer_in_four_does_not_pass() -> None:
    """Neither medians nor ranks beyond the tolerance show it."""
    late = [[0.5, 0.5, 0.5, 900.0]] * 8
    found = judged([*boots(OLD, *[[0.5] * 4] * 8), *boots(NEW, *late)])
    assert found.verdict is Verdict.FAIL
    assert found.rows[0].reasons == ("takes more than 10 times the usual wait more often",)
    found = judged([*boots(OLD, *[[0.5] * 4] * 8), *boots(NEW, *late[:4], *[[0.5] * 4] * 4)])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.rows[0].reasons[0].startswith("4 of 8 boots had an answer after more than 10 ")


def test_stalls_that_the_baseline_has_too_pass() -> None:
    late = [[0.5, 0.5, 0.5, 900.0]] * 8
    assert judged([*boots(OLD, *late), *boots(NEW, *late)]).verdict is Verdict.PASS


def test_damaged_memory_fails_whatever_the_times() -> None:
    new = steady(NEW, 6)
    new[0] = dataclasses.replace(new[0], recovery=Recovery(None, None, "damaged"))
    found = judged([*steady(OLD, 6), *new])
    assert found.verdict is Verdict.FAIL
    assert found.rows[0].reasons == ("1 of its guests found their memory damaged",)


def test_hangs_on_a_host_without_the_baseline_do_not_pass() -> None:
    elsewhere = Host("native", "kvm", "elsewhere")
    records = [*steady(OLD, 6), *steady(NEW, 6)]
    assert judged([*records, *steady(NEW, 6, host=elsewhere)]).verdict is Verdict.PASS
    found = judged([*records, *hanging(NEW, 6, host=elsewhere)])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "12 of its 12 trials where the baseline was not measured hung" in found.sentence
    # The file must not look like a pass either.
    (suite,) = ElementTree.fromstring(junit.document(found))
    assert suite.attrib["errors"] == "1"


def test_slow_links_of_two_kinds_are_not_compared() -> None:
    sides = [
        steady(kernel, 6, scenario=ScenarioName.DEGRADED, outage=outage)
        for kernel, outage in ((OLD, "netem-degraded"), (NEW, "tbf-degraded"))
    ]
    with pytest.raises(CannotCompare, match="different outages: netem-degraded, tbf-degraded"):
        judged([*sides[0], *sides[1]])


def test_two_machines_of_one_name_are_compared_only_if_asked_to() -> None:
    """One machine measured the baseline, and its clone the candidate."""
    records = [
        *steady(OLD, 3, machine_id="0a"),
        *steady(OLD, 3, boot="older "),
        *steady(NEW, 6, machine_id="0b"),
    ]
    with pytest.raises(
        CannotCompare, match=r"somewhere \(native, kvm\) are of 2 machines that have one name"
    ):
        judged(records)
    assert judged(records, whatever_differs=True).verdict is Verdict.PASS


def test_labs_of_one_name_may_have_several_machine_ids() -> None:
    """A container has a new machine id each time, and the same name if CI gives it one."""
    records = [
        *steady(OLD, 6, host=EMULATED, machine_id="0a"),
        *steady(NEW, 6, host=EMULATED, machine_id="0b"),
    ]
    assert judged(records).verdict is Verdict.PASS


def test_settings_that_a_kernel_may_bring_are_noted() -> None:
    old = steady(OLD, 6, setup=Setup(thp="always"))
    new = steady(NEW, 6, setup=Setup(thp="never"))
    assert judged([*old, *new]).notes == ("thp: always -> never",)


def test_settings_of_storage_are_noted_for_trials_of_that_family() -> None:
    for scenario, notes in (
        (ScenarioName.BLACKHOLE, ()),
        (ScenarioName.FUSE_HOLD, ("fuse request timeout: unknown -> 0",)),
    ):
        old = steady(OLD, 6, scenario=scenario, setup=Setup())
        new = steady(NEW, 6, scenario=scenario, setup=Setup(fuse_request_timeout=0))
        assert judged([*old, *new]).notes == notes


def test_guests_that_do_not_test_the_flag_have_no_limit() -> None:
    shape = Shape(image="uaccess")
    records = [*hanging(OLD, 6, shape=shape), *hanging(NEW, 6, shape=shape)]
    assert judged(records).verdict is Verdict.PASS


FUSE: dict[str, Any] = {
    "scenario": ScenarioName.FUSE_HOLD,
    "store": "FUSE (libfuse 3.14.0), read-ahead 128 KiB",
}


def test_a_stall_that_hangs_under_both_kernels_passes() -> None:
    """No kernel is known that obeys while storage does not answer, so there is no limit."""
    found = judged([*hanging(OLD, 6, **FUSE), *hanging(NEW, 6, **FUSE)])
    assert found.verdict is Verdict.PASS
    assert found.rows[0].limit_ns is None
    assert found.rows[0].key.place == "fuse-hold"


def test_a_stall_that_hangs_under_the_candidate_alone_fails() -> None:
    found = judged([*steady(OLD, 6, **FUSE), *hanging(NEW, 6, **FUSE)])
    assert found.verdict is Verdict.FAIL
    assert found.rows[0].reasons[0] == "hangs more often"
    # A slower SIGKILL is found as it is in other scenarios.
    killed = {**FUSE, "request": RequestName.SIGKILL}
    slow = judged([*steady(OLD, 8, 10.0, **killed), *steady(NEW, 8, 20.0, **killed)])
    assert slow.rows[0].reasons == ("takes more than 1.25 times as long",)


def test_stalls_and_migrations_are_judged_beside_each_other() -> None:
    records = [
        each for kernel in (OLD, NEW) for each in (*steady(kernel, 6), *hanging(kernel, 6, **FUSE))
    ]
    found = judged(records)
    assert [(row.key.scenario, row.limit_ns is None) for row in found.rows] == [
        (ScenarioName.BLACKHOLE, False),
        (ScenarioName.FUSE_HOLD, True),
    ]
    assert found.verdict is Verdict.PASS


def test_different_stores_are_not_compared() -> None:
    other = {**FUSE, "store": "FUSE (libfuse 3.16.2), read-ahead 128 KiB"}
    with pytest.raises(
        CannotCompare, match=r"different stores: FUSE .libfuse 3\.14\.0., read-ahead"
    ):
        judged([*hanging(OLD, 6, **FUSE), *hanging(NEW, 6, **other)])


def test_a_few_hangs_that_the_baseline_never_had_do_not_pass() -> None:
    """They are too few to fail, but they are not evidence of sameness either."""
    few = [*steady(NEW, 12)[:24], *boots(NEW, *[[None, None]] * 3)]
    few = [dataclasses.replace(each, boot_id=str(number // 2)) for number, each in enumerate(few)]
    found = judged([*steady(OLD, 15), *few], Terms(limits_ns={}))
    assert found.verdict is Verdict.INCONCLUSIVE
    (row,) = found.rows
    assert row.reasons == ("20% of its trials hang, and 0% of the baseline's",)
    assert row.boots_needed is not None
    assert row.boots_needed > 15


def test_fewer_hangs_than_before_pass() -> None:
    some = [*steady(NEW, 8), *boots(NEW, *[[None, None]] * 12)]
    some = [dataclasses.replace(each, boot_id=str(number // 2)) for number, each in enumerate(some)]
    some = [dataclasses.replace(each, host=EMULATED) for each in some]
    found = judged([*hanging(OLD, 20, host=EMULATED), *some], Terms(limits_ns={}))
    assert found.verdict is Verdict.PASS


def test_one_boot_never_passes() -> None:
    for make_boots in (steady, hanging):
        records = [make_boots(kernel, 1, host=EMULATED) for kernel in (OLD, NEW)]
        found = judged([*records[0], *records[1]], Terms(limits_ns={}))
        assert found.verdict is Verdict.INCONCLUSIVE
        assert found.boots_needed is not None


def refusing(kernel: Kernel, count: int, ms: float = 2.0, **options: object) -> list[Record]:
    rows = steady(kernel, count, ms, **options)
    return [dataclasses.replace(each, outcome=Outcome.REFUSED) for each in rows]


def test_a_candidate_that_refuses_where_the_baseline_answered_fails() -> None:
    found = judged([*steady(OLD, 6), *refusing(NEW, 6)])
    assert found.verdict is Verdict.FAIL
    (row,) = found.rows
    assert row.reasons == ("refuses more often",)
    assert (row.candidate.refused, row.candidate.lost, row.candidate.median) == (12, 0, None)
    assert row.ratio is None


def test_a_candidate_that_no_longer_refuses_is_no_worse() -> None:
    assert judged([*refusing(OLD, 6), *steady(NEW, 6)]).verdict is Verdict.PASS


def test_a_request_that_both_kernels_refuse_passes_with_enough_boots() -> None:
    found = judged([*refusing(OLD, 6), *refusing(NEW, 6)])
    assert found.verdict is Verdict.PASS
    found = judged([*refusing(OLD, 2), *refusing(NEW, 2)])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.boots_needed == 5


def test_a_refusal_is_no_worse_than_a_hang_and_a_hang_is_worse_than_a_refusal() -> None:
    terms = Terms(limits_ns={})
    assert judged([*hanging(OLD, 6), *refusing(NEW, 6)], terms).verdict is Verdict.PASS
    found = judged([*refusing(OLD, 6), *hanging(NEW, 6)], terms)
    assert found.verdict is Verdict.FAIL
    assert found.rows[0].reasons == ("hangs more often",)


def test_a_few_refusals_that_the_baseline_never_had_do_not_pass() -> None:
    found = judged([*steady(OLD, 6), *steady(NEW, 5), *refusing(NEW, 1, boot="last")])
    assert found.verdict is Verdict.INCONCLUSIVE
    (row,) = found.rows
    assert row.reasons == ("17% of its trials are refused, and 0% of the baseline's",)


def test_a_refusal_that_takes_longer_than_the_limit_is_late() -> None:
    found = judged([*refusing(OLD, 6), *refusing(NEW, 6, 3_000.0)])
    assert found.verdict is Verdict.FAIL
    assert found.rows[0].reasons == ("has no answer within 1 s",)


def test_without_refusals_there_is_no_test_of_them() -> None:
    """So there is one test less to adjust for, and earlier verdicts stay."""
    found = judged([*steady(OLD, 6), *steady(NEW, 6)])
    assert found.rows[0].p_refusals is None


def test_a_death_of_qemu_is_judged_as_a_hang() -> None:
    dying = [dataclasses.replace(each, outcome=Outcome.DIED) for each in hanging(NEW, 6)]
    found = judged([*steady(OLD, 6), *dying])
    assert found.verdict is Verdict.FAIL
    (row,) = found.rows
    assert row.reasons[0] == "hangs or dies more often"
    assert (row.candidate.hung, row.candidate.died) == (12, 12)
    found = judged([*hanging(OLD, 6), *dying], Terms(limits_ns={}))
    assert found.verdict is Verdict.PASS


def test_an_unexplained_hang_is_judged_like_any_other() -> None:
    silent = [dataclasses.replace(each, outcome=Outcome.UNANSWERED) for each in hanging(NEW, 6)]
    assert judged([*steady(OLD, 6), *silent]).verdict is Verdict.FAIL


def of_schema_1(records: Sequence[Record]) -> list[Record]:
    return [dataclasses.replace(each, schema=1) for each in records]


def test_schemas_are_compared_where_their_outcomes_mean_the_same() -> None:
    assert judged([*of_schema_1(steady(OLD, 6)), *steady(NEW, 6)]).verdict is Verdict.PASS
    assert judged([*of_schema_1(hanging(OLD, 6)), *steady(NEW, 6)]).verdict is Verdict.PASS
    # kickbench was updated after half of one kernel's boots.
    mixed = [*of_schema_1(steady(NEW, 3)), *steady(NEW, 3, boot="new")]
    assert judged([*steady(OLD, 6), *mixed]).verdict is Verdict.PASS


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.REFUSED])
def test_what_an_older_schema_lost_or_refused_is_not_compared_with_a_newer(
    outcome: Outcome,
) -> None:
    one = [dataclasses.replace(make(outcome, kernel=OLD), host=NATIVE)]
    old = of_schema_1([*steady(OLD, 12), *one])
    with pytest.raises(CannotCompare, match=r"^The records of stop in blackhole .* Measure both"):
        judged([*old, *steady(NEW, 12)])
    assert judged([*old, *steady(NEW, 12)], whatever_differs=True).verdict is Verdict.PASS
    assert judged([*old, *of_schema_1(steady(NEW, 12))]).verdict is Verdict.PASS
    # In the present schema, lost has one meaning.
    new = [*steady(NEW, 12), dataclasses.replace(one[0], kernel=NEW, outcome=Outcome.LOST)]
    assert judged([*of_schema_1(steady(OLD, 12)), *new]).verdict is Verdict.PASS


def test_refusals_of_schema_1_still_count_as_lost() -> None:
    found = judged(of_schema_1([*steady(OLD, 6), *steady(NEW, 6), *refusing(NEW, 2, boot="r")]))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.rows[0].candidate.lost == 4


def test_one_late_trial_passes_among_many_and_among_few_the_needed_number_is_named() -> None:
    def once_late(count: int) -> list[Record]:
        return [*steady(NEW, count - 1), *boots(NEW, [1500.0], boot="late")]

    found = judged([*steady(OLD, 20), *once_late(20)])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.boots_needed == 59
    assert judged([*steady(OLD, 20), *once_late(100)]).verdict is Verdict.PASS


def test_a_limit_beyond_the_deadline_cannot_be_judged() -> None:
    terms = Terms(limits_ns={RequestName.STOP: 10 * NS_PER_S})
    with pytest.raises(CannotCompare, match="beyond the deadline of its trials, 5 s"):
        judged([*steady(OLD, 6), *steady(NEW, 6)], terms)


def test_deadlines_that_differ_do_not_make_a_hang() -> None:
    """An answer after two seconds is in time for a deadline of five, and not for one of one."""
    old = steady(OLD, 6, 2000.0)
    new = [dataclasses.replace(each, deadline_ns=NS_PER_S) for each in hanging(NEW, 6)]
    found = judged([*old, *new], Terms(limits_ns={}), whatever_differs=True)
    assert found.rows[0].base.hung == 12
    assert found.verdict is not Verdict.FAIL


def test_a_difference_within_the_records_of_one_kernel_is_seen() -> None:
    """QEMU was upgraded between the boots of each kernel."""
    mixed = [
        *steady(OLD, 5),
        *steady(OLD, 1, boot="last", qemu="10.0.0"),
        *steady(NEW, 1),
        *steady(NEW, 5, boot="last", qemu="10.0.0"),
    ]
    with pytest.raises(CannotCompare, match="different QEMUs"):
        judged(mixed)


def test_a_kernel_is_not_compared_with_itself() -> None:
    with pytest.raises(CannotCompare, match="both the baseline and the candidate"):
        gate.compare(steady(OLD, 6), OLD, OLD)


def test_hosts_that_measured_only_one_kernel_are_left_out_and_named() -> None:
    """The booted kernel was also measured natively, the candidate only in the lab."""
    records = [
        *steady(OLD, 6),
        *steady(OLD, 6, host=EMULATED),
        *steady(NEW, 6, host=EMULATED),
    ]
    found = judged(records)
    assert found.verdict is Verdict.PASS
    assert found.left_out == (NATIVE,)


A, B, C, D = (Host("lab", "tcg", f"host-{letter}") for letter in "abcd")


def on(host: Host, *made: Sequence[Record]) -> list[Record]:
    """Records of another host, and of boots of its own."""
    return [
        dataclasses.replace(each, host=host, boot_id=f"{host.machine} {each.boot_id}")
        for records in made
        for each in records
    ]


def test_a_kernel_that_fails_on_one_host_fails_and_the_hosts_are_named() -> None:
    found = judged(
        [
            *on(A, steady(OLD, 6), steady(NEW, 6)),
            *on(B, steady(OLD, 6), hanging(NEW, 6)),
            *on(C, steady(OLD, 2), steady(NEW, 2)),
            *on(D, steady(OLD, 6)),
        ]
    )
    assert found.verdict is Verdict.FAIL
    assert [(each.host, each.verdict) for each in found.hosts] == [
        (A, Verdict.PASS),
        (B, Verdict.FAIL),
        (C, Verdict.INCONCLUSIVE),
    ]
    assert found.left_out == (D,)
    assert found.sentence == (
        "6.1.0-56-amd64 must not follow 6.1.0-55-amd64: it fails on host-b (lab, tcg), is "
        "inconclusive on host-c (lab, tcg), and passes on 1 of 3 hosts. On host-b (lab, tcg): "
        "stop in blackhole: hangs more often; has no answer within 5 s."
    )
    assert [str(each) for each in found.hosts] == [
        "host-a (lab, tcg): pass: in 1 of 1 comparisons it is no worse; hangs in up to 39% of "
        "boots are not ruled out.",
        "host-b (lab, tcg): fail: stop in blackhole: hangs more often; has no answer within 5 s.",
        "host-c (lab, tcg): inconclusive: stop in blackhole: up to 78% of boots may still hang. "
        "5 boots per kernel would settle it.",
    ]


def test_a_kernel_passes_only_if_it_passes_on_every_host() -> None:
    there = on(A, steady(OLD, 6), steady(NEW, 6))
    found = judged([*there, *on(B, steady(OLD, 6), steady(NEW, 6))])
    assert found.verdict is Verdict.PASS
    assert "on 2 of 2 hosts, in 2 of 2 comparisons it is no worse" in found.sentence
    found = judged([*there, *on(B, steady(OLD, 2), steady(NEW, 2))])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.sentence == (
        "Whether 6.1.0-56-amd64 may follow 6.1.0-55-amd64 is not known yet: it is inconclusive on "
        "host-b (lab, tcg), and passes on 1 of 2 hosts. On host-b (lab, tcg): stop in blackhole: "
        "up to 78% of boots may still hang. 5 boots per kernel on each host would settle it."
    )


def test_the_boots_of_two_hosts_are_never_added_up() -> None:
    """Three boots cannot pass, and three boots of each of two hosts are not six."""
    made = [*on(A, steady(OLD, 3), steady(NEW, 3)), *on(B, steady(OLD, 3), steady(NEW, 3))]
    assert [each.verdict for each in judged(made).hosts] == [Verdict.INCONCLUSIVE] * 2


def test_all_tests_of_all_hosts_are_adjusted_together() -> None:
    """What is significant on the only host may be chance on one of twenty."""
    bad = [*boots(OLD, *[[1.0]] * 6), *boots(NEW, *[[None]] * 4, [1.0], [1.0])]
    terms = Terms(limits_ns={})
    assert judged(on(A, bad), terms).verdict is Verdict.FAIL
    hosts = [Host("lab", "tcg", f"host-{number}") for number in range(19)]
    fine = [each for host in hosts for each in on(host, steady(OLD, 6), steady(NEW, 6))]
    found = judged([*on(A, bad), *fine], terms)
    assert [each.verdict for each in found.hosts] == [Verdict.INCONCLUSIVE] + [Verdict.PASS] * 19


def test_a_case_that_a_host_could_not_try_keeps_that_host_from_passing() -> None:
    found = judged(
        [
            *on(A, steady(OLD, 6), steady(NEW, 6)),
            *on(B, steady(OLD, 6), steady(NEW, 6), untried(NEW)),
            *on(B, hanging(OLD, 6, scenario=ScenarioName.FUSE_HOLD)),
        ]
    )
    assert [each.verdict for each in found.hosts] == [Verdict.PASS, Verdict.INCONCLUSIVE]
    assert found.hosts[1].boots_needed is None
    assert "On host-b (lab, tcg): stop in fuse-hold: the baseline was measured" in found.sentence


def test_hangs_where_only_the_candidate_was_measured_do_not_pass_whatever_differs() -> None:
    records = [
        *on(A, steady(OLD, 6), steady(NEW, 6), untried(OLD)),
        *on(B, hanging(NEW, 6, scenario=ScenarioName.FUSE_HOLD)),
    ]
    found = judged(records, whatever_differs=True)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "fuse-hold on host-b (lab, tcg)" in found.sentence


def test_a_host_that_should_have_measured_and_did_not_keeps_the_kernel_from_passing() -> None:
    made = [*on(A, steady(OLD, 6), steady(NEW, 6)), *on(B, steady(OLD, 6))]
    assert judged(made).verdict is Verdict.PASS
    assert judged(made, machines=["host-a"]).verdict is Verdict.PASS
    found = judged(made, machines=["host-a", "host-b", "host-c"])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.sentence.endswith("host-b, host-c did not measure both kernels.")


def test_junit_has_a_suite_per_host_and_one_for_the_whole() -> None:
    found = judged(
        [
            *on(A, steady(OLD, 6), steady(NEW, 6)),
            *on(B, steady(OLD, 6), steady(NEW, 6), untried(NEW)),
            *on(B, hanging(OLD, 6, scenario=ScenarioName.FUSE_HOLD)),
            *on(C, steady(OLD, 6), hanging(NEW, 6)),
        ]
    )
    whole = ElementTree.fromstring(junit.document(found))
    name = "6.1.0-55-amd64 -> 6.1.0-56-amd64"
    assert [each.attrib["name"] for each in whole] == [
        *(f"{name} on host-{letter} (lab, tcg)" for letter in "abc"),
        name,
    ]
    seen = [[suite.attrib[kind] for kind in ("tests", "failures", "errors")] for suite in whole]
    assert seen == [["1", "0", "0"], ["2", "0", "1"], ["1", "1", "0"], ["1", "1", "0"]]
    assert (whole.attrib["tests"], whole.attrib["failures"]) == ("5", "2")
    (failure,) = whole[3].iter("failure")
    assert failure.attrib["message"] == found.sentence


REASON = "The file system FUSE is not there."


def untried(kernel: Kernel, count: int = 4) -> list[Record]:
    """Trials in fuse-hold that were not tried."""
    return [
        dataclasses.replace(
            make(Outcome.LOST, None, scenario=ScenarioName.FUSE_HOLD, kernel=kernel, reason=REASON),
            boot_id=f"{kernel.release} {number}",
            tried=False,
        )
        for number in range(count)
    ]


def test_trials_that_were_not_tried_are_left_out_and_named() -> None:
    found = judged([*steady(OLD, 6), *untried(OLD), *steady(NEW, 6), *untried(NEW)])
    assert found.verdict is Verdict.PASS
    assert [(row.key.scenario, row.base.lost) for row in found.rows] == [("blackhole", 0)]
    assert [each.trials for each in found.untried] == [4, 4]
    why = "stop in fuse-hold (The file system FUSE is not there)"
    lines = [f"not tried under {kernel.release}: {why}" for kernel in (OLD, NEW)]
    assert [str(each) for each in found.untried] == lines
    output = ElementTree.fromstring(junit.document(found)).findtext(".//system-out")
    assert output is not None
    assert [each for each in output.splitlines() if each.startswith("left out: ")] == [
        f"left out: {each}" for each in lines
    ]


def test_trials_that_were_not_tried_do_not_count_beside_others() -> None:
    records = [
        *hanging(OLD, 6, scenario=ScenarioName.FUSE_HOLD),
        *hanging(NEW, 6, scenario=ScenarioName.FUSE_HOLD),
    ]
    found = judged([*records, *untried(OLD, 20), *untried(NEW, 20)])
    assert found.verdict is Verdict.PASS
    assert (found.rows[0].base.trials, found.rows[0].base.lost) == (12, 0)


def test_what_the_candidate_could_not_try_does_not_pass() -> None:
    records = [
        *steady(OLD, 6),
        *hanging(OLD, 6, scenario=ScenarioName.FUSE_HOLD),
        *steady(NEW, 6),
        *untried(NEW),
    ]
    found = judged(records)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "stop in fuse-hold: the baseline was measured, and the candidate was not tried" in (
        found.sentence
    )
    assert [row.verdict for row in found.rows] == [Verdict.PASS]


def test_hangs_in_what_the_baseline_could_not_try_do_not_pass() -> None:
    records = [*steady(OLD, 6), *untried(OLD), *steady(NEW, 6)]
    assert (
        judged([*records, *steady(NEW, 6, scenario=ScenarioName.FUSE_HOLD)]).verdict is Verdict.PASS
    )
    found = judged([*records, *hanging(NEW, 6, scenario=ScenarioName.FUSE_HOLD)])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "12 of its 12 trials where the baseline was not measured hung" in found.sentence


def test_kernels_without_a_trial_in_common_are_refused_with_the_reason() -> None:
    with pytest.raises(CannotCompare, match=r"No trial of 6\.1\.0-56-amd64 was tried.*FUSE is not"):
        judged([*steady(OLD, 6), *untried(NEW)])
    ours = [*steady(OLD, 6, scenario=ScenarioName.FUSE_HOLD), *untried(OLD)]
    theirs = [dataclasses.replace(each, scenario=ScenarioName.PAUSED) for each in steady(NEW, 6)]
    mine = [dataclasses.replace(each, scenario=ScenarioName.PAUSED) for each in untried(OLD)]
    with pytest.raises(CannotCompare, match="Nothing was tried under both kernels"):
        judged([*ours, *mine, *theirs, *untried(NEW)])


def test_native_records_are_not_compared_with_records_of_the_lab() -> None:
    records = [*steady(OLD, 6), *steady(NEW, 6, host=EMULATED)]
    with pytest.raises(CannotCompare, match=r"never compared, .* measure both kernels in one way"):
        judged(records)


def test_latencies_of_zero_can_be_judged() -> None:
    assert judged([*steady(OLD, 6, 0.0), *steady(NEW, 6, 0.0)]).verdict is Verdict.PASS


def test_a_kernel_without_records_is_refused() -> None:
    with pytest.raises(CannotCompare, match=r"no records of 6\.1\.0-56"):
        judged(steady(OLD, 5))


def test_junit_has_a_case_with_a_verdict_per_row() -> None:
    records = [*steady(OLD, 5), *hanging(NEW, 5)]
    records += [
        *steady(OLD, 5, scenario=ScenarioName.IDLE),
        *steady(NEW, 5, scenario=ScenarioName.IDLE),
    ]
    (suite,) = ElementTree.fromstring(junit.document(judged(records)))
    assert suite.attrib["tests"] == "2"
    assert suite.attrib["failures"] == "1"
    hung, fine = suite.findall("testcase")
    (failure,) = hung
    assert failure.tag == "failure"
    assert failure.attrib["message"].startswith("hangs more often")
    assert not list(fine)
    assert fine.attrib["classname"] == "kickbench.somewhere.native-kvm.idle"


def test_junit_names_the_guests_and_is_well_formed_xml() -> None:
    evil = dataclasses.replace(NEW, release="6.1\x01\x1b]<&>")
    records = [*steady(OLD, 5), *steady(evil, 5)]
    larger = Shape(vcpus=4)
    records += [*steady(OLD, 5, shape=larger), *steady(evil, 5, shape=larger)]
    (suite,) = ElementTree.fromstring(junit.document(gate.compare(records, OLD, evil)))
    assert [case.attrib["name"] for case in suite.findall("testcase")] == [
        "stop",
        "stop (4 vCPUs)",
    ]


class TestCommand:
    """The command `gate`, on a record file."""

    @pytest.fixture
    def records(self, history: Path) -> Path:
        return history / ".asv" / "records.jsonl"

    def invoke(self, *words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["gate", *words])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output

    @pytest.mark.parametrize(
        ("new", "status"),
        [(steady(NEW, 6), 0), (hanging(NEW, 6), 1), (steady(NEW, 2), 2)],
    )
    def test_the_status_is_the_verdict(self, records: Path, new: list[Record], status: int) -> None:
        record.append(records, *steady(OLD, 6), *new)
        code, output = self.invoke(OLD.release, f"v{NEW.release}")
        assert code == status
        assert output.splitlines()[-1].startswith(["pass: ", "fail: ", "inconclusive: "][status])

    @pytest.mark.parametrize(
        ("words", "why"),
        [
            (
                ["6.1.0-1", NEW.release],
                "records.jsonl has records of 6.1.0-55-amd64, 6.1.0-56-amd64. `kickbench lab",
            ),
            (["booted", NEW.release], "`kickbench trial` makes some"),
            ([OLD.release], "Missing argument 'CANDIDATE'"),
            ([OLD.release, NEW.release, "--limit", "stop"], "'stop' is not REQUEST=SECONDS"),
            ([OLD.release, NEW.release, "--limit", "stop=soon"], "soon"),
            ([OLD.release, NEW.release, "--limit", "jump=1s"], "jump"),
            ([OLD.release, NEW.release, "--tolerance", "1"], "tolerance"),
            ([OLD.release, NEW.release, "--tolerance", "nan"], "tolerance"),
            ([NEW.release, "debian/6.1"], "both the baseline and the candidate"),
            ([OLD.release, NEW.release, "--junit", "/nowhere/gate.xml"], "/nowhere/gate.xml"),
        ],
    )
    def test_an_error_has_another_status_than_a_verdict(
        self, records: Path, words: list[str], why: str
    ) -> None:
        record.append(records, *steady(OLD, 6), *steady(NEW, 6))
        code, output = self.invoke(*words)
        assert code == CannotCompare.exit_status
        assert why in output

    def test_without_records_the_file_is_named(self, records: Path) -> None:
        _, output = self.invoke(OLD.release, NEW.release)
        assert f"the record file {records} does not exist" in output
        records.parent.mkdir(parents=True, exist_ok=True)
        records.touch()
        _, output = self.invoke(OLD.release, NEW.release)
        assert f"the record file {records} is empty" in output

    def test_streams_and_json(self, records: Path) -> None:
        other = Kernel("6.12.117+deb12-amd64", "#1 SMP Debian 6.12.117-1~deb12u1 (2026-11-14)")
        record.append(records, *steady(OLD, 6), *hanging(NEW, 6), *steady(other, 6))
        done = CliRunner().invoke(main, ["gate", "debian/6.12", "debian/6.1", "--json"])
        assert done.exit_code == 1
        assert done.stderr.splitlines() == [
            "kickbench: debian/6.12 is 6.12.117+deb12-amd64",
            "kickbench: debian/6.1 is 6.1.0-56-amd64",
        ]
        said = msgspec.json.decode(done.stdout)
        assert said["candidate"]["release"] == NEW.release
        assert said["verdict"] == "fail"
        assert said["rows"][0]["ratio"]["high"] is None
        assert said["rows"][0]["candidate"]["hung"] == 12
        assert (said["rows"][0]["request"], said["rows"][0]["manager"]) == ("stop", "qemu")

    def test_several_hosts_have_a_line_each_before_the_verdict(self, records: Path) -> None:
        made = [*on(A, steady(OLD, 6), steady(NEW, 6)), *on(B, steady(OLD, 6), hanging(NEW, 6))]
        record.append(records, *made)
        code, output = self.invoke(OLD.release, NEW.release)
        assert code == 1
        starts = ["host-a (lab, tcg): pass: ", "host-b (lab, tcg): fail: ", "fail: 6.1.0-56"]
        for line, start in zip(output.splitlines()[-3:], starts, strict=True):
            assert line.startswith(start)
        done = CliRunner().invoke(main, ["gate", OLD.release, NEW.release, "--json"])
        hosts = msgspec.json.decode(done.stdout)["hosts"]
        assert [(each["host"]["machine"], each["verdict"]) for each in hosts] == [
            ("host-a", "pass"),
            ("host-b", "fail"),
        ]

    def test_a_file_edited_by_hand_costs_its_damaged_lines(self, records: Path) -> None:
        record.append(records, *steady(OLD, 6), *steady(NEW, 6))
        late = record.to_line(make())
        with records.open("a") as file:
            file.write('{"schema": 1, "request": "stop"}\nnonsense\n')
            file.write(late.replace('"latency_ns":1000000', '"latency_ns":-5') + "\n")
            file.write(late.replace('"latency_ns":1000000', '"latency_ns":null') + "\n")
            file.write(late.replace('"deadline_ns":5000000000', '"deadline_ns":0') + "\n")
        code, output = self.invoke(OLD.release, NEW.release)
        assert code == 0
        assert output.count("left out") == 5
        assert "5 lines of the record file could not be read" in output

    def test_nothing_is_judged_beside_records_of_a_newer_schema(self, records: Path) -> None:
        record.append(records, *steady(OLD, 6), *steady(NEW, 6))
        with records.open("a") as file:
            file.write('{"schema": 99}\n')
        code, output = self.invoke(OLD.release, NEW.release)
        assert code == CannotCompare.exit_status
        assert "1 record cannot be read by this version" in output

    def test_what_was_not_tried_is_shown_with_the_reason(self, records: Path) -> None:
        record.append(records, *steady(OLD, 6), *untried(OLD), *steady(NEW, 6), *untried(NEW))
        code, output = self.invoke(OLD.release, NEW.release)
        assert code == 0
        for kernel in (OLD, NEW):
            assert (
                f"Left out: not tried under {kernel.release}: stop in fuse-hold "
                "(The file system FUSE is not there)" in output
            )
        done = CliRunner().invoke(main, ["gate", OLD.release, NEW.release, "--json"])
        assert [each["trials"] for each in msgspec.json.decode(done.stdout)["untried"]] == [4, 4]

    def test_refusals_are_shown_beside_hangs(self, records: Path) -> None:
        record.append(records, *steady(OLD, 6), *refusing(NEW, 6))
        code, output = self.invoke(OLD.release, NEW.release)
        assert code == 1
        (row,) = [line for line in output.splitlines() if line.startswith(" stop")]
        words = " ".join(row.split())
        assert "1.01 ms (6 boots) refused (6 boots) - 0/12 -> 0/12, < 39%;" in words

    def test_a_limit_for_a_request_without_records_is_refused(self, records: Path) -> None:
        record.append(records, *steady(OLD, 6), *steady(NEW, 6))
        code, output = self.invoke(OLD.release, NEW.release, "--limit", "quit=2s")
        assert code == CannotCompare.exit_status
        assert "--limit names quit, but there are no records of quit" in output
        assert self.invoke(OLD.release, NEW.release, "--limit", "quit=none")[0] == 0

    def test_a_limit_that_applies_to_no_guest_is_refused(self, records: Path) -> None:
        shape = Shape(image="uaccess")
        record.append(records, *steady(OLD, 6, shape=shape), *steady(NEW, 6, shape=shape))
        assert self.invoke(OLD.release, NEW.release)[0] == 0
        code, _ = self.invoke(OLD.release, NEW.release, "--limit", "stop=0.5s")
        assert code == CannotCompare.exit_status

    def test_what_cannot_be_compared_is_an_error_in_junit_too(
        self, records: Path, tmp_path: Path
    ) -> None:
        record.append(records, *steady(OLD, 6))
        report = tmp_path / "gate.xml"
        code, _ = self.invoke(OLD.release, NEW.release, "--junit", str(report))
        assert code == CannotCompare.exit_status
        (suite,) = ElementTree.fromstring(report.read_bytes())
        (error,) = suite.iter("error")
        assert error.attrib["message"].startswith(f"There are no records of {NEW.release}")
