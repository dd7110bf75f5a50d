# SPDX-License-Identifier: BSD-3-Clause
"""docs/what-obeys.md: its tables are made from what was measured, and every number has a stack."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any, Literal

import pytest

from bench_lib.asv_bridge.probe_suite import ProbeSuite
from bench_lib.guest.workloads.description import WORKLOADS, shape_of
from bench_lib.kvm import probe
from bench_lib.kvm.probe import Hung, Report, Result
from bench_lib.record import (
    Backing,
    Entry,
    Evidence,
    Family,
    FollowUp,
    Host,
    Kernel,
    ManagerName,
    Outcome,
    Record,
    RequestName,
    ScenarioName,
    Setup,
    Shape,
    WaitsFor,
)
from bench_lib.record import file as files
from tests import pages
from tests.conftest import CHECKOUT
from tests.make import record, thread

# mypy checks these modules under other names, so they cannot be imported as usual.
cells: Any = importlib.import_module("tools.what_obeys.cells")
tables: Any = importlib.import_module("tools.what_obeys.tables")
predictions: Any = importlib.import_module("tools.what_obeys.predictions")
command: Any = importlib.import_module("tools.what_obeys.__main__")

PAGE = CHECKOUT / command.PAGE
REASONS = predictions.reasons(CHECKOUT / predictions.PREDICTIONS)
OLD, NEW = Kernel("6.1.0-56-amd64", "#1"), Kernel("6.12.117+deb12-amd64", "#1")
BEFORE = ("folio_wait_bit_common", "filemap_fault", "hva_to_pfn")
AFTER = ("folio_wait_bit", "fuse_flush", "do_exit")


def test_the_page_is_the_one_that_its_input_makes() -> None:
    found = cells.read(sorted((CHECKOUT / command.INPUT).iterdir()))
    again = tables.made(PAGE.read_text(), found, REASONS)
    assert PAGE.read_text() == again, "run .venv/bin/python -m tools.what_obeys"


def test_every_number_of_the_page_leads_to_a_stack() -> None:
    links = {each for each in pages.links(PAGE) if each.startswith("#stack-")}
    assert links
    assert {each.removeprefix("#") for each in links} == {
        each for each in pages.anchors(PAGE) if each.startswith("stack-")
    }


def test_every_scenario_of_the_family_storage_stages_a_reason() -> None:
    staged = {name for each in REASONS for name in each.scenarios}
    assert staged >= {each for each in ScenarioName if each.family is Family.STORAGE}


def test_every_prediction_is_about_a_request_or_a_group() -> None:
    known = {*map(str, RequestName), *cells.WAKES, *predictions.GROUPS.values()}
    assert {name for each in REASONS for name in each.expected} <= known
    images = {name.partition("/")[2] for each in REASONS for name in each.scenarios} - {""}
    assert images <= set(WORKLOADS)


def _reason(number: str) -> Any:
    return next(each for each in REASONS if each.number == number)


def test_a_prediction_holds_from_a_version_on() -> None:
    gup = _reason("6")
    assert gup.prediction("stop", OLD) == "hangs"
    assert gup.prediction("stop", Kernel("6.2.0", "#1")) == "returns"
    assert gup.prediction("ptrace-interrupt", NEW) == "returns"
    assert gup.prediction("plug-memory", NEW) == gup.prediction("dirty-rate", OLD) == "hangs"
    assert gup.words("stop") == "hangs; returns from 6.2"
    assert gup.prediction("query-status", NEW) is None
    assert _reason("10").words("sigkill") == "may hang"
    assert _reason("10").prediction("sigkill", NEW) is None


def test_looks_at_the_process_were_predicted_to_hang_where_the_vcpu_holds_mmap_lock() -> None:
    for each in map(_reason, ("1b", "2b", "3b")):
        assert each.prediction("ps", NEW) == each.prediction("proc-maps", NEW) == "hangs"
        assert each.words("proc-maps") == "hangs; returns from 7.3"
    assert _reason("1a").prediction("ps", NEW) is None


def stuck(outcome: Outcome = Outcome.ASLEEP, latency_ms: float = 1.0) -> Record:
    """A trial whose vCPU waits for FUSE, and whose hang another thread explains."""
    vcpu = thread("D", BEFORE[0], BEFORE, Entry.GUP, WaitsFor.PAGE_CACHE)
    other = thread("D", AFTER[0], AFTER, Entry.SYSCALL, WaitsFor.FUSE)
    made = record(outcome, latency_ms, scenario=ScenarioName.FUSE_HOLD, kernel=NEW)
    return dataclasses.replace(made, evidence=Evidence((vcpu,), (other,), blocker=other.tid))


def idle() -> Record:
    """A trial of the control."""
    return record(scenario=ScenarioName.IDLE, kernel=NEW)


def page(*records: Record, reports: tuple[Report, ...] = ()) -> dict[str, str]:
    """The generated parts of the page, without empty lines."""
    names = ("agreement", "stop", "sigkill", "requests", "probe", "reasons", "stacks")
    empty = "".join(f"<!-- generated: {name} -->\n<!-- end -->\n" for name in names)
    found = cells.Input(
        list(records), {cells.Place(each.kernel, each.host): each for each in reports}
    )
    made = tables.made(empty, found, REASONS)
    return {match[1]: match[3] for match in tables.PART.finditer(made)}


def row(table: str, staged: str) -> list[str]:
    """The cells of the row that this stages."""
    (line,) = [each for each in table.splitlines() if f"| `{staged}` |" in each]
    return [each.strip() for each in line.strip("|").split("|")]


def test_a_hang_leads_to_the_stuck_vcpu_and_to_the_thread_that_explains_it() -> None:
    made = page(stuck())
    assert row(made["stop"], "fuse-hold")[2:] == [
        "hangs",
        "✓ **asleep** [1](#stack-1) [2](#stack-2)",
    ]
    where = "`stop`, `fuse-hold`, 6.12.117+deb12-amd64, native"
    assert made["stacks"].splitlines() == [
        "### Stack 1",
        "",
        f"- vCPU 0 before the request, state D (gup, page-cache): {where}",
        "",
        "```text",
        " < ".join(BEFORE),
        "```",
        "",
        "### Stack 2",
        "",
        f"- vCPU 0 at the deadline, state D (syscall, fuse): {where}",
        "",
        "```text",
        " < ".join(AFTER),
        "```",
        "",
    ]


def test_a_stack_is_shown_once_with_every_thread_that_had_it() -> None:
    quit_ = dataclasses.replace(stuck(), request=RequestName.QUIT)
    vcpu = dataclasses.replace(stuck().evidence.before[0], state="S")
    old = dataclasses.replace(stuck(), evidence=Evidence((vcpu,)), kernel=OLD)
    made = page(stuck(), quit_, old)["stacks"]
    assert made.count(" < ".join(BEFORE)) == 1
    assert [each for each in made.splitlines() if each.startswith("- vCPU 0 before")] == [
        "- vCPU 0 before the request, state S (gup, page-cache): `stop`, `fuse-hold`, "
        "6.1.0-56-amd64, native",
        "- vCPU 0 before the request, state D (gup, page-cache): `stop`, `fuse-hold`, "
        "6.12.117+deb12-amd64, native (and 1 more)",
    ]


def test_a_cell_counts_its_outcomes_and_has_the_median_of_answers() -> None:
    returned = stuck(Outcome.RETURNED, 2.0)
    made = page(returned, returned, stuck())
    assert row(made["stop"], "fuse-hold")[3] == (
        "✗ 2 returned, 1 **asleep**, 2.00 ms [1](#stack-1)"
    )
    assert "0 of 1 measured cells" in made["agreement"]
    assert (
        "- 1a, FUSE, with read-ahead (`fuse-hold`): `stop` under 6.12.117+deb12-amd64, native: "
        "predicted hangs, measured 2 returned, 1 **asleep**, 2.00 ms [1](#stack-1)"
    ) in made["agreement"]


def test_a_cell_that_measured_nothing_has_no_sign() -> None:
    lost = dataclasses.replace(stuck(), outcome=Outcome.LOST, reason="It did not get stuck.")
    assert row(page(lost)["stop"], "fuse-hold")[3] == "lost 1"
    assert row(page(lost)["sigkill"], "fuse-hold")[3] == "not measured"
    assert "0 of 0 measured cells" in page(lost)["agreement"]


def test_kernels_are_columns_from_the_oldest_to_the_newest() -> None:
    lab = dataclasses.replace(stuck(), kernel=OLD, host=Host("lab", "tcg", "somewhere"))
    head = page(stuck(), lab)["stop"].splitlines()[0]
    assert head.endswith("| 6.1.0-56-amd64, lab (tcg) | 6.12.117+deb12-amd64, native |")


def test_every_request_has_a_column_under_the_kernel_under_which_it_was_made() -> None:
    killed = dataclasses.replace(stuck(Outcome.RETURNED, 20.0), request=RequestName.SIGKILL)
    made = page(stuck(), killed)["requests"]
    assert "### 6.12.117+deb12-amd64, native" in made
    assert "| reason | staged by | `stop` | `sigkill` |" in made
    assert row(made, "fuse-hold")[2:] == [
        "✓ **asleep** [1](#stack-1) [2](#stack-2)",
        "✓ returned, 20 ms [1](#stack-1)",
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"manager": ManagerName.LIBVIRT},
        {"scenario": ScenarioName.PAUSED},
        {"shape": Shape(cpu="host")},
        {"shape": Shape(image="async-pf")},
        {"shape": Shape(backing=Backing.MEMFD)},
        {"shape": Shape(preempt=True)},
        {"shape": Shape(vcpus=2)},
        {"shape": Shape(memory_mib=64)},
        {"then": FollowUp(RequestName.SIGKILL, Outcome.RETURNED, 1000)},
        {"tried": False, "outcome": Outcome.LOST, "reason": "There is no FUSE."},
    ],
    ids=str,
)
def test_a_trial_of_another_guest_belongs_to_no_row(other: dict[str, Any]) -> None:
    assert cells.used([dataclasses.replace(stuck(), **other)], REASONS) == []
    assert cells.used([stuck()], REASONS) == [stuck()]


@pytest.mark.parametrize(
    ("request_", "start", "belongs"),
    [
        (RequestName.STOP, "restored", True),
        (RequestName.STOP, "booted", False),
        # This request cannot be made to a guest that is restored.
        (RequestName.PLUG_MEMORY, "booted", True),
    ],
)
def test_linux_guests_that_booted_are_not_mixed_with_restored_ones(
    request_: RequestName, start: Literal["booted", "restored"], belongs: bool
) -> None:
    made = dataclasses.replace(
        stuck(),
        scenario=ScenarioName.FROZEN_SOURCE,
        request=request_,
        shape=shape_of("linux"),
        guest_start=start,
    )
    assert cells.used([made], REASONS) == ([made] if belongs else [])
    bigger = dataclasses.replace(made, shape=shape_of("linux", vcpus=2))
    assert cells.used([bigger], REASONS) == []


def test_what_was_not_tried_is_not_measured() -> None:
    untried = dataclasses.replace(stuck(), outcome=Outcome.LOST, reason="No.", tried=False)
    assert row(page(untried, idle())["stop"], "fuse-hold")[3] == "not measured"


def test_a_cell_of_several_deadlines_names_them() -> None:
    later = dataclasses.replace(stuck(), deadline_ns=20 * 10**9, seq=2)
    lost = dataclasses.replace(stuck(), deadline_ns=10**9, outcome=Outcome.LOST, reason="No.")
    assert row(page(stuck(), later, lost)["stop"], "fuse-hold")[3].startswith(
        "✓ 2 **asleep**, 1 lost (deadlines 5 s, 20 s)"
    )
    assert "deadlines" not in page(stuck(), stuck())["stop"]


@pytest.mark.parametrize(("latency_ms", "sign"), [(0.5, "✗"), (99.0, "✗"), (700.0, "✓")])
def test_an_answer_at_once_contradicts_slow(latency_ms: float, sign: str) -> None:
    throttled = dataclasses.replace(
        stuck(Outcome.RETURNED, latency_ms), scenario=ScenarioName.MEMORY_HIGH
    )
    assert row(page(throttled)["stop"], "memory-high")[3].startswith(f"{sign} returned")


def test_a_look_at_the_process_that_returns_contradicts_its_prediction() -> None:
    look = dataclasses.replace(
        stuck(Outcome.RETURNED), scenario=ScenarioName.FUSE_SYNC, request=RequestName.PS
    )
    made = page(look)
    assert row(made["requests"], "fuse-sync")[2].startswith("✗ returned, 1.00 ms")
    assert "predicted hangs, measured returned" in made["agreement"]
    head = made["reasons"].splitlines()[0]
    assert "| memory slots | ps | proc-maps |" in head


def test_a_guest_with_another_image_has_a_row_of_its_own() -> None:
    shared = dataclasses.replace(
        stuck(Outcome.SPINNING),
        scenario=ScenarioName.FROZEN_SOURCE,
        shape=Shape(image="pv-steal-time"),
    )
    made = page(shared)["stop"]
    assert row(made, "frozen-source/pv-steal-time")[3].startswith("✓ **spinning**")
    assert row(made, "frozen-source")[3] == "not measured"


REPORT = Report(
    NEW,
    "a boot",
    Host("native", "kvm", "somewhere"),
    Setup(),
    "yes",
    "",
    (
        Result("gup-write", Outcome.RETURNED, None, "S", "0", Entry.GUP, (20_000,), BEFORE),
        Result("gup-write-sigkill", None, "It cannot be tried."),
        Result(
            "kvmclock", Outcome.ASLEEP, None, "D", "0", Entry.GPC, (), AFTER,
            waits_for=WaitsFor.USERFAULT,
        ),
        Result(
            "uaccess", Outcome.SPINNING, None, "S", "0", Entry.UACCESS, (), BEFORE,
            Hung("R", "0", AFTER, 1.0),
        ),
    ),
)  # fmt: skip


def test_cases_of_the_probe_have_a_column_per_wake() -> None:
    made = page(reports=(REPORT,))["probe"]
    assert "| reason | staged by | `sigusr1` |" in made
    assert row(made, "gup-write")[2:] == ["✓ returned, 0.02 ms [1](#stack-1)"]
    assert row(made, "uaccess")[2:] == ["✓ **spinning** [1](#stack-1) [2](#stack-2)"]
    stacks = page(reports=(REPORT,))["stacks"]
    assert "- vCPU before the wake, state D (gpc, userfault): `sigusr1`, `kvmclock`, " in stacks


def test_the_name_of_a_case_is_apart_from_its_wake() -> None:
    assert cells.apart("gup-write-sigint") == ("gup-write", "sigint")
    assert cells.apart("gup-write-memfd-minor") == ("gup-write-memfd-minor", "sigusr1")
    assert cells.apart("dead-server") == ("dead-server", "dead-server")
    names = ProbeSuite.params
    assert {cells.apart(each)[0] for each in names} <= set(names)
    assert len({cells.apart(each) for each in names}) == len(names)


def test_what_is_kept_of_the_input_makes_the_same_page(tmp_path: Path) -> None:
    file, report = tmp_path / "records.jsonl", tmp_path / "probe.json"
    files.append(file, stuck(), dataclasses.replace(stuck(), seq=2))
    report.write_bytes(probe.to_json(REPORT))
    found = cells.read([file, report, file])
    assert found.records == [stuck(), dataclasses.replace(stuck(), seq=2)]
    cells.store(found, tmp_path / "kept")
    kept = cells.read(sorted((tmp_path / "kept").iterdir()))
    assert (kept.records, kept.reports) == (found.records, found.reports)


def test_the_command_keeps_what_belongs_to_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs" / "sample").mkdir(parents=True)
    for name in (command.PAGE, predictions.PREDICTIONS):
        (tmp_path / name).write_bytes((CHECKOUT / name).read_bytes())
    files.append(tmp_path / "records.jsonl", stuck(), record(scenario=ScenarioName.PAUSED, seq=2))
    command.main(["records.jsonl"])
    assert capsys.readouterr().err == "1 record belongs to no row of the page.\n"
    page = (tmp_path / command.PAGE).read_text()
    assert "✓ **asleep** [1](#stack-1) [2](#stack-2)" in page
    command.main([])
    assert (tmp_path / command.PAGE).read_text() == page
