# SPDX-License-Identifier: BSD-3-Clause
"""The fleet as people read it, on terminals and in files."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench_lib import present
from bench_lib.fleet.status import CampaignState, FleetStatus, HostState, Refusal
from bench_lib.fleet.work import Finding, Kind
from tests import fleets

LONG = "kvm-node-17.rack4.example.org"
FULL = "3 boots failed, the last one because /run/kickbench is full."
STRANGER = Refusal(
    "10.9.9.9",
    "certificate verify failed: self-signed certificate",
    12,
    "2026-11-26T14:40:00+00:00",
)

BUSY = fleets.fleet(
    fleets.host(state=HostState.WORKING, doing=("boot 3 of 6.1.0-41-amd64",)),
    fleets.host(LONG, state=HostState.SET_ASIDE, reason=FULL, failures=3),
    fleets.host(
        fleets.facts("labs", kinds=(Kind.LAB,), room=4),
        lost=2,
        notes=("Its clock is 3 h slow.",),
        findings=(Finding("libvirt", "degraded", "libvirtd is not installed."),),
    ),
    campaigns=(
        fleets.campaign(warnings=("labs has another QEMU than alpha.",)),
        fleets.campaign(
            id="ba9876543210",
            state=CampaignState.INCOMPLETE,
            running=0,
            left_s=None,
            missing=("A boot was given up.",),
        ),
    ),
    refused=(STRANGER,),
)


def shown(status: FleetStatus, width: int, *, terminal: bool = True) -> list[str]:
    """The lines that a console of this width shows."""
    console = Console(
        file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, height=100
    )
    present.fleet_status(console, status)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def row(lines: list[str], start: str) -> str:
    """The only line that starts with this."""
    (found,) = [each for each in lines if each.strip().startswith(start)]
    return " ".join(found.split())


@pytest.mark.parametrize("width", [80, 160])
def test_a_terminal_shows_everything_without_lines_that_are_too_long(width: int) -> None:
    lines = shown(BUSY, width)
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for each in (
        "3 hosts: 1 ready, 1 working, 1 set aside",
        "lab x 4",
        f"{LONG} is set aside: {FULL}",
        "labs: Its clock is 3 h slow.",
        "labs: libvirt degraded: libvirtd is not installed.",
        "stop in blackhole under",
        "0123456789ab: labs has another QEMU than alpha.",
        "ba9876543210: missing: A boot was given up.",
        "10.9.9.9 12 2026-11-26T14:40:00+00:00",
    ):
        assert each in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text


def test_a_wide_terminal_has_a_row_per_host_and_campaign() -> None:
    lines = shown(BUSY, 160)
    assert row(lines, "alpha ") == (
        "alpha 6.1.0-56-amd64 host, lab working 5 min 3 0 0 boot 3 of 6.1.0-41-amd64"
    )
    assert row(lines, f"{LONG}  ") == (f"{LONG} 6.1.0-56-amd64 host, lab set aside 5 min 3 0 3 -")
    assert row(lines, "0123456789ab  ") == (
        "0123456789ab stop in blackhole under 6.1.0-56-amd64 (host) 5 of 24 30 1 2 2 h 2 min "
        "running"
    )


def test_a_narrow_terminal_has_the_kernel_below_the_host() -> None:
    lines = shown(BUSY, 80)
    at = next(number for number, line in enumerate(lines) if line.startswith(f" {LONG} "))
    assert [" ".join(each.split()) for each in lines[at : at + 3]] == [
        f"{LONG} set aside 3 0 -", "6.1.0-56-amd64 5 min", "host, lab 3 failed",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("name", ["[red]alpha[/red]", ":bomb:", LONG])
def test_a_terminal_shows_the_name_of_a_host_as_it_is(name: str, width: int) -> None:
    assert row(shown(fleets.fleet(fleets.host(name)), width), f"{name} ")


def test_a_name_that_is_too_long_for_the_terminal_is_broken_and_not_cut() -> None:
    name = "-".join(str(number) for number in range(100, 116))
    lines = shown(fleets.fleet(fleets.host(name)), 80)
    start = next(number for number, line in enumerate(lines) if line.startswith(" 100-"))
    parts = [line.split()[0] for line in lines[start : start + 3]]
    assert "".join(parts).startswith(name)


def test_a_file_has_a_line_for_each_fact_however_long() -> None:
    assert shown(BUSY, 80, terminal=False) == [
        "coordinator tls://10.0.0.1:8786, kickbench 1.0, since 2026-11-26T14:00:00+00:00",
        "records: /var/lib/kickbench/records.jsonl",
        "3 hosts: 1 ready, 1 working, 1 set aside",
        "host alpha: working for 5 min, 6.1.0-56-amd64, host and lab work, 3 boots, 0 lost: "
        "boot 3 of 6.1.0-41-amd64",
        f"host {LONG}: set aside for 5 min, 6.1.0-56-amd64, host and lab work, 3 boots, 0 lost, "
        f"3 failed in a row: {FULL}",
        "host labs: ready for 5 min, 6.1.0-56-amd64, lab x 4 work, 3 boots, 2 lost",
        "campaign 0123456789ab: running, 5 of 24 boots, 30 trials, 1 lost, 2 running, 2 h 2 min "
        "left: stop in blackhole under 6.1.0-56-amd64 (host)",
        "campaign 0123456789ab: labs has another QEMU than alpha.",
        "campaign ba9876543210: incomplete, 5 of 24 boots, 30 trials, 1 lost: "
        "stop in blackhole under 6.1.0-56-amd64 (host)",
        "campaign ba9876543210: missing: A boot was given up.",
        "refused 10.9.9.9: 12 times, last 2026-11-26T14:40:00+00:00: "
        "certificate verify failed: self-signed certificate",
        "note labs: Its clock is 3 h slow.",
        "note labs: libvirt degraded: libvirtd is not installed.",
    ]


def test_a_fleet_without_hosts_has_no_empty_tables() -> None:
    assert shown(fleets.fleet(), 80, terminal=False)[-1] == "0 hosts"
    assert shown(fleets.fleet(), 80)[-1] == "0 hosts"


def test_a_low_terminal_shows_the_campaigns_rather_than_all_hosts() -> None:
    many = fleets.fleet(
        *(fleets.host(f"host-{number}") for number in range(50)), campaigns=BUSY.campaigns
    )
    file = io.StringIO()
    console = Console(file=file, width=160, height=30, force_terminal=True, color_system=None)
    with present.fleet_live(console) as show:
        show(many, "The coordinator cannot be reached.")
        lines = file.getvalue().splitlines()
    assert len(lines) <= 30
    assert row(lines, "ba9876543210  ")
    assert lines[0].endswith("The coordinator cannot be reached.")
    assert not [line for line in lines if line.startswith("0 notes")]


def test_what_doctors_found_leaves_room_for_the_hosts_of_a_low_terminal() -> None:
    file = io.StringIO()
    console = Console(file=file, width=160, height=30, force_terminal=True, color_system=None)
    findings = tuple(Finding(f"part {number}", "degraded", "It is.") for number in range(40))
    with present.fleet_live(console) as show:
        show(fleets.fleet(fleets.host(findings=findings)), None)
        lines = file.getvalue().splitlines()
    assert "40 notes; `kickbench fleet status` shows them." in lines
    assert row(lines, "alpha ")


def test_of_campaigns_that_have_ended_only_the_last_are_shown() -> None:
    ended = [
        fleets.campaign(id=f"ended-{number:02}", state=CampaignState.COMPLETE)
        for number in range(12)
    ]
    status = fleets.fleet(campaigns=(fleets.campaign(id="running-00"), *ended))
    for width in (80, 160):
        lines = shown(status, width)
        assert row(lines, "running-00")
        assert row(lines, "ended-02")
        assert not [line for line in lines if "ended-01" in line]
        assert row(lines, "2 older campaigns not shown")
    assert len(shown(status, 80, terminal=False)) == 3 + 13


def test_a_narrow_terminal_has_what_a_campaign_measures_below_its_id() -> None:
    lines = shown(BUSY, 80)
    at = next(number for number, line in enumerate(lines) if line.startswith(" 0123456789ab "))
    assert " ".join(lines[at].split()) == "0123456789ab 5 of 24 1 2 h 2 min running"
    assert " ".join(lines[at + 1].split()) == "stop in blackhole under 30 trials 2 running"
    assert lines[at + 2].startswith(" 6.1.0-56-amd64 (host) ")


def test_what_doctors_of_several_hosts_found_is_shown_once() -> None:
    notes = ("Its QEMU is older.",)
    both = fleets.fleet(*(fleets.host(name, notes=notes) for name in ("alpha", "beta")))
    assert row(shown(both, 80), "alpha, beta: ") == "alpha, beta: Its QEMU is older."
    many = fleets.fleet(*(fleets.host(f"host-{number}", notes=notes) for number in range(50)))
    assert row(shown(many, 80), "host-0, ") == (
        "host-0, host-1, host-2 and 47 others: Its QEMU is older."
    )
    assert [line for line in shown(both, 80, terminal=False) if line.startswith("note")] == [
        "note alpha: Its QEMU is older.", "note beta: Its QEMU is older.",
    ]  # fmt: skip


def test_what_is_unusual_about_the_coordinator_is_shown() -> None:
    old = fleets.fleet(notes=("cert.pem expires soon.",))
    assert row(shown(old, 80), "coordinator: ") == "coordinator: cert.pem expires soon."
    assert "note coordinator: cert.pem expires soon." in shown(old, 80, terminal=False)


def test_a_campaign_is_shown_beside_what_its_hosts_do() -> None:
    file = io.StringIO()
    console = Console(file=file, width=160, height=30, force_terminal=True, color_system=None)
    with present.campaign_live(console, ["alpha"]) as show:
        show(BUSY, BUSY.campaigns[0])
        lines = file.getvalue().splitlines()
    assert row(lines, "0123456789ab  ")
    assert "boot 3 of 6.1.0-41-amd64" in row(lines, "alpha ")
    assert not [line for line in lines if "ba9876543210" in line or line.startswith(" labs ")]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.7, "1 min"),
        (3580, "1 h 0 min"),
        (11_100, "3 h 5 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_a_time_that_people_wait_has_units_that_suit_it(seconds: float, text: str) -> None:
    assert present.span(seconds) == text


def test_a_campaign_of_any_host_shows_those_that_do_labs() -> None:
    file = io.StringIO()
    console = Console(file=file, width=160, height=30, force_terminal=True, color_system=None)
    bare = fleets.host(fleets.facts("bare", kinds=(Kind.HOST,)))
    status = fleets.fleet(fleets.host(fleets.facts("labs", kinds=(Kind.LAB,))), bare)
    with present.campaign_live(console, []) as show:
        show(status, fleets.campaign())
        lines = file.getvalue().splitlines()
    assert row(lines, "labs ")
    assert not [line for line in lines if "bare" in line]
