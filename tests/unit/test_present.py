# SPDX-License-Identifier: BSD-3-Clause
"""Records and summaries as people read them."""

from __future__ import annotations

import dataclasses
import io
import re

import pytest
from rich.console import Console

from bench_lib import present
from bench_lib.cli.matrix import MATRIX_CORE
from bench_lib.kvm.probe import ZEROS, Result
from bench_lib.record import (
    Entry,
    Evidence,
    Outcome,
    Record,
    Recovery,
    RequestName,
    ScenarioName,
    Shape,
    WaitsFor,
)
from bench_lib.trial.case import PV_IMAGES
from bench_lib.verdict import summary
from tests.make import MS, STUCK, record, thread


def hung(**changes: object) -> Record:
    stuck = thread("D", "handle_userfault", STUCK, Entry.GUP, WaitsFor.USERFAULT)
    evidence = Evidence((stuck,), (stuck,), blocker=stuck.tid)
    made = record(Outcome.ASLEEP)
    return dataclasses.replace(made, evidence=evidence, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (
            record(latency_ms=1.5),
            "returned, after 1.50 ms, by netem, vCPU 0 S handle_userfault gup",
        ),
        (
            record(Outcome.REFUSED, 30_000.0, reason="The lock is held."),
            "refused, after 30.0 s, The lock is held., by netem, vCPU 0 S handle_userfault gup",
        ),
        (
            hung(),
            "asleep, no answer in 5.0 s, blocked by vCPU 0 D handle_userfault (gup, userfault), "
            "by netem, vCPU 0 D handle_userfault gup",
        ),
        (
            hung(late_ns=6_200 * MS, survivors=("QEMU 4711 of the source",)),
            "asleep, no answer in 5.0 s, answered after 6.2 s, too late, blocked by vCPU 0 D "
            "handle_userfault (gup, userfault), by netem, vCPU 0 D handle_userfault gup, "
            "did not end when killed: QEMU 4711 of the source",
        ),
        (
            record(Outcome.DIED, reason="QEMU was ended by SIGSEGV."),
            "died, QEMU was ended by SIGSEGV., by netem, vCPU 0 S handle_userfault gup",
        ),
    ],
)
def test_a_trial_in_one_line(made: Record, line: str) -> None:
    assert present.trial_line(made) == f"#1 stop in blackhole: {line}"


def big(*entries: Entry) -> Record:
    """A trial of a guest with a vCPU for each entry."""
    vcpus = tuple(
        dataclasses.replace(
            thread("S", "handle_userfault", STUCK, entry, WaitsFor.USERFAULT), vcpu=number
        )
        for number, entry in enumerate(entries)
    )
    return dataclasses.replace(record(), evidence=Evidence(vcpus), shape=Shape(vcpus=len(vcpus)))


def test_vcpus_that_are_alike_are_shown_together() -> None:
    line = present.trial_line(big(*[Entry.GUP] * 254, Entry.UACCESS))
    assert line.endswith(
        ", by netem, 254 vCPUs S handle_userfault gup, vCPU 254 S handle_userfault uaccess"
    )


@pytest.mark.parametrize("table", ["report", "matrix"])
def test_a_table_shows_how_many_vcpus_were_on_which_path(table: str) -> None:
    mixes = [[Entry.UACCESS, Entry.GUP, Entry.UACCESS]] * 2 + [[Entry.GUP] * 3]
    rows = summary.rows([big(*mix) for mix in mixes])
    console = Console(file=io.StringIO(), width=200)
    if table == "report":
        present.report(console, rows, [], [])
    else:
        present.matrix(console, rows)
    assert ": 2 uaccess, 1 gup or 3 gup" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_row_shows_the_times_of_refusals_apart_from_answers() -> None:
    refused = [record(Outcome.REFUSED, ms) for ms in (10.0, 30.0)]
    (row,) = summary.rows([record(latency_ms=2.0), *refused])
    assert present.outcomes(row) == "1 of 3 returned, 2 refused (median 20 ms, worst 30 ms)"
    (row,) = summary.rows(refused)
    assert present.outcomes(row) == "2 of 2 refused (median 20 ms, worst 30 ms)"


@pytest.mark.parametrize(
    "cpu",
    [
        "host,kvm-steal-time=off",
        "host,kvm-steal-time=off,kvmclock=off,kvm-asyncpf=off,kvm-asyncpf-int=off,kvm-pv-eoi=off",
    ],
)
def test_a_long_cpu_leaves_room_for_the_other_columns(cpu: str) -> None:
    shape = Shape(2, 128, image="linux", cpu=cpu, work="memory")
    rows = summary.rows([dataclasses.replace(record(), shape=shape)])
    console = Console(file=io.StringIO(), width=present.WIDE)
    present.report(console, rows, [], [])
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1 of 1 returned" in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert re.sub(r"\W", "", cpu) in re.sub(r"\W", "", _column(text, "scenario"))


def _column(text: str, name: str) -> str:
    """The cells of a column of a table, joined."""
    lines = text.splitlines()
    head = next(line for line in lines if name in line)
    start = head.index(name)
    end = head.index("outcome")
    return "".join(line[start:end].strip() for line in lines[lines.index(head) + 2 :])


def test_the_matrix_has_a_column_per_guest() -> None:
    other = dataclasses.replace(record(Outcome.DIED), shape=Shape(vcpus=4))
    console = Console(file=io.StringIO(), width=200)
    present.matrix(console, summary.rows([record(), other]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "blackhole (4 vCPUs)" in text
    assert "died > 5.0 s" in text
    assert "returned 1.00 ms" in text


def test_the_matrix_of_the_core_set_cuts_no_name_short_in_a_file() -> None:
    places = [
        *((name, "gup") for name in MATRIX_CORE),
        *((ScenarioName.FROZEN_SOURCE, image) for image in PV_IMAGES),
    ]
    made = [
        dataclasses.replace(record(scenario=name), shape=Shape(image=image))
        for name, image in places
    ]
    console = Console(file=io.StringIO(), width=present.WIDE)
    present.matrix(console, summary.rows(made))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    lines = text.splitlines()
    (end,) = (at for at, line in enumerate(lines) if "\N{BOX DRAWINGS LIGHT HORIZONTAL}" in line)
    # A long name goes on in the next line, and every head ends in the last.
    starts = [each.start() for each in re.finditer(r"(?<=  )\S", lines[end - 1])]
    heads = [
        "".join(line[start:stop].strip() for line in lines[2:end])
        for start, stop in zip(starts, [*starts[1:], None], strict=True)
    ]
    assert [head.partition("(")[0] for head in heads] == [name for name, _ in places]
    assert [head.partition("(")[2].partition(":")[0] for head in heads if "(" in head] == [
        *PV_IMAGES
    ]


def test_the_row_of_a_case_of_the_probe_has_its_note() -> None:
    console = Console(file=io.StringIO(), width=present.WIDE)
    result = Result(
        "dead-server", Outcome.RETURNED, None, "S", "handle_userfault", Entry.GUP, (1000,),
        note=ZEROS,
    )  # fmt: skip
    present.probe_row(console, 12, result)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().split() == [
        "dead-server", "returned", "1", "us", "1", "us", "1", "S", "handle_userfault", "gup",
        *ZEROS.split(),
    ]  # fmt: skip


def test_guests_that_are_whole_after_stalls_of_storage_share_a_line() -> None:
    def recovered(scenario: ScenarioName, request: RequestName, failure: str | None) -> Record:
        recovery = Recovery(None, 10 * MS, None if failure else "whole", None, failure)
        made = record()
        return dataclasses.replace(made, scenario=scenario, request=request, recovery=recovery)

    console = Console(file=io.StringIO(), width=200, record=True)
    rows = summary.recoveries(
        [
            recovered(ScenarioName.FUSE_HOLD, RequestName.STOP, None),
            recovered(ScenarioName.FUSE_HOLD, RequestName.PS, None),
            recovered(ScenarioName.NFS_SOFT, RequestName.PLUG_MEMORY, "It does not run."),
            recovered(ScenarioName.PAUSED, RequestName.STOP, None),
        ]
    )
    present.recoveries(console, rows)
    assert console.export_text().splitlines() == [
        "1 of 1 NOT RECOVERED; recovered after plug-memory in nfs-soft: 0 of 1 whole, next pass of "
        "every vCPU 10 ms",
        "recovered after stop in paused: 1 of 1 whole, next pass of every vCPU 10 ms",
        "memory whole after stalls of storage: 2 of 2 other trials",
    ]
