# SPDX-License-Identifier: BSD-3-Clause
"""Which boots `gate --boots-until-settled --fleet` makes, and what it judges."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import click.testing
import pytest

from bench_lib import record
from bench_lib.cli import main, until_settled
from bench_lib.errors import CampaignIncomplete, CannotCompare, FleetError
from bench_lib.fleet import campaigns
from bench_lib.fleet.status import HostState
from bench_lib.fleet.work import Kind
from bench_lib.kernel.ledger import describe
from bench_lib.kernel.store import Bootable
from bench_lib.record import Host, Kernel
from tests.fake_fleet import FakeFleet, connecting, host
from tests.make import record as make

KERNELS = [Kernel(f"6.{number}", "#1") for number in (1, 12)]
BUILDS = {
    kernel.release: Bootable(describe(kernel), "somewhere", Path("/nowhere")) for kernel in KERNELS
}


@pytest.fixture
def fleet(history: Path, monkeypatch: pytest.MonkeyPatch) -> FakeFleet:
    made = FakeFleet(host("host-a"), host("host-b"))
    monkeypatch.setattr(campaigns, "connected", connecting(made))
    monkeypatch.setattr(until_settled, "bootable", lambda _, name: BUILDS[name])
    return made


def gate(most: int, *words: str) -> click.testing.Result:
    command = ["gate", "6.1", "6.12", "--boots-until-settled", f"{most}", "--fleet", "lab1"]
    return click.testing.CliRunner().invoke(main, [*command, *words])


def plans(fleet: FakeFleet) -> list[tuple[list[str], int, Sequence[str]]]:
    """The kernels, boots and hosts of each campaign."""
    return [
        ([kernel.release for kernel in plan.kernels], plan.boots, plan.hosts)
        for plan in fleet.submitted
    ]


def test_every_ready_host_boots_both_kernels(fleet: FakeFleet) -> None:
    done = gate(20)
    assert done.exit_code == 0, done.output
    assert plans(fleet) == [(["6.1", "6.12"], 6, ("host-a", "host-b"))]
    assert "kickbench: host-a, host-b boot both kernels" in done.stderr
    assert "look 1 of 3, 6 boots of each: pass" in done.stderr
    assert done.stdout.splitlines()[-1].startswith("pass: 6.12 may follow 6.1: on 2 of 2 hosts")


def test_a_kernel_that_hangs_on_one_host_fails_at_the_first_look(fleet: FakeFleet) -> None:
    fleet.hangs["host-b"] = "6.12"
    done = gate(20)
    assert done.exit_code == 1, done.output
    assert len(fleet.submitted) == 1
    assert "it fails on host-b (lab, kvm), and passes on 1 of 2 hosts" in done.stdout


def test_hosts_that_are_not_ready_do_not_take_part_and_are_named(fleet: FakeFleet) -> None:
    for each in (
        host("host-c", HostState.AWAY),
        host("host-d", HostState.SET_ASIDE, "the doctor failed"),
        host("host-e", kinds=(Kind.HOST,)),
    ):
        fleet.hosts[each.facts.name] = each
    done = gate(6)
    assert done.exit_code == 0, done.output
    assert fleet.submitted[0].hosts == ("host-a", "host-b")
    for text in (
        "host-c is away",
        "host-d is set aside (the doctor failed)",
        "host-e offers no lab work",
    ):
        assert f"kickbench: {text}, and does not take part" in done.stderr


def test_without_a_ready_host_nothing_is_judged(fleet: FakeFleet) -> None:
    fleet.hosts = {"host-a": host("host-a", HostState.DRAINED)}
    done = gate(6)
    assert done.exit_code == FleetError.exit_status
    assert "No host of the fleet can do lab work now: host-a is drained." in done.output


def test_hosts_with_fewer_boots_catch_up_and_boots_of_others_do_not_count(
    fleet: FakeFleet,
) -> None:
    """host-a has boots already, and so have this machine and a host that has left."""
    assert gate(2).exit_code == 2
    elsewhere = [
        dataclasses.replace(each, host=dataclasses.replace(each.host, machine="host-z"))
        for each in fleet.kept
    ]
    fleet.kept = [each for each in fleet.kept if each.host.machine == "host-a"] + elsewhere
    assert gate(3).exit_code == 2
    assert plans(fleet)[1:] == [
        (["6.1", "6.12"], 1, ("host-a",)),
        (["6.1", "6.12"], 3, ("host-b",)),
    ]


def test_a_host_that_has_passed_makes_no_more_boots(fleet: FakeFleet) -> None:
    """host-b hung in one of its first boots, so that it needs more."""
    fleet.hangs["host-b"] = "6.12"
    assert gate(1, "--limit", "stop=none").exit_code == 2
    fleet.hangs.clear()
    done = gate(20, "--limit", "stop=none")
    assert plans(fleet)[1] == (["6.1", "6.12"], 5, ("host-a", "host-b"))
    assert [hosts for _, _, hosts in plans(fleet)[2:]] == [("host-b",)] * 2
    assert done.exit_code == 2, done.output
    assert "it is inconclusive on host-b (lab, kvm), and passes on 1 of 2 hosts" in done.stdout


def test_a_host_that_is_set_aside_meanwhile_is_judged_by_what_it_has(fleet: FakeFleet) -> None:
    assert gate(1).exit_code == 2
    fleet.breaks["host-b"] = "3 boots failed in a row"
    done = gate(20)
    assert done.exit_code == 2, done.output
    assert "is inconclusive on host-b (lab, kvm), and passes on 1 of 2 hosts" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.endswith("host-b is set aside (3 boots failed in a row).")
    # No more looks are of use, because host-a has passed, and host-b makes no more boots.
    assert "look 2 of 3" in done.stderr
    assert "look 3 of 3" not in done.stderr


def test_a_host_without_any_boots_keeps_the_kernel_from_passing(fleet: FakeFleet) -> None:
    fleet.breaks["host-b"] = "3 boots failed in a row"
    done = gate(6)
    assert done.exit_code == 2, done.output
    assert "not known yet: host-b did not measure both kernels." in done.stdout
    assert done.stdout.splitlines()[-1].endswith("host-b is set aside: 3 boots failed in a row.")


def test_if_no_host_can_make_a_boot_the_reasons_are_the_error(fleet: FakeFleet) -> None:
    fleet.breaks |= {"host-a": "its disk is full", "host-b": "3 boots failed in a row"}
    done = gate(6)
    assert done.exit_code == CampaignIncomplete.exit_status
    for name, reason in fleet.breaks.items():
        assert f"{name} is set aside: {reason}." in done.output


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"qemu": "10.0.0"}, "made with the QEMU of host-a 10.0.0, but new ones would be made"),
        ({"deadline_ns": 1}, "made with deadline of stop 1e-09 s"),
    ],
)
def test_records_that_new_ones_could_not_be_compared_with_are_refused_before_any_boot(
    fleet: FakeFleet, changes: dict[str, object], why: str
) -> None:
    made = dataclasses.replace(
        make(kernel=KERNELS[0]),
        host=Host("lab", "kvm", "host-a"),
        **changes,  # type: ignore[arg-type]
    )
    fleet.kept.append(made)
    done = gate(6)
    assert done.exit_code == CannotCompare.exit_status
    assert why in done.output
    assert not fleet.submitted


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--fleet", "lab1"], "--fleet applies only to --boots-until-settled"),
        (["--boots-until-settled", "6", "--fleet", ""], "--fleet needs the address"),
        (["--boots-until-settled", "6", "--fleet", "x", "--jobs", "2"], "how many labs it runs"),
        (
            ["--boots-until-settled", "6", "--fleet", "x", "--whatever-differs"],
            "never judged as one",
        ),
    ],
)
def test_options_that_make_no_sense_with_a_fleet_are_refused(
    fleet: FakeFleet, words: list[str], why: str
) -> None:
    done = click.testing.CliRunner().invoke(main, ["gate", "6.1", "6.12", *words])
    assert done.exit_code == CannotCompare.exit_status
    assert why in done.output


def test_the_variable_alone_does_not_mean_the_fleet(
    fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch, history: Path
) -> None:
    monkeypatch.setenv("KICKBENCH_FLEET", "lab1")
    made = [
        dataclasses.replace(make(kernel=kernel), boot_id=f"{kernel.release} {boot}")
        for kernel in KERNELS
        for boot in range(6)
    ]
    record.append(history / ".asv" / "records.jsonl", *made)
    done = click.testing.CliRunner().invoke(main, ["gate", "6.1", "6.12"])
    assert done.exit_code == 0, done.output
    assert not fleet.submitted
