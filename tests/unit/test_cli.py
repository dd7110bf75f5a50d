# SPDX-License-Identifier: BSD-3-Clause
"""What commands print, and their exit statuses."""

import dataclasses
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bench_lib import process
from bench_lib import record as files
from bench_lib.cli import kernels, main
from bench_lib.cli.trials import exit_status
from bench_lib.errors import (
    InternalError,
    Interrupted,
    LabLost,
    MemoryDamaged,
    RecordNotWritten,
    TrialLost,
    UnknownKernel,
)
from bench_lib.lab import trials
from bench_lib.present.trials import trial_line
from bench_lib.record import (
    Family,
    FollowUp,
    ManagerName,
    Outcome,
    Record,
    Recovery,
    RequestName,
    ScenarioName,
)
from bench_lib.trial import batch, preflight
from bench_lib.trial.batch import NativeRunner
from bench_lib.trial.case import Case
from bench_lib.trial.requests.description import offered_by
from tests.make import record


@pytest.mark.parametrize(
    ("path", "searched"),
    [
        ("/usr/bin:/bin", "/usr/bin:/bin:/usr/sbin:/sbin"),
        ("/sbin:/bin", "/sbin:/bin:/usr/sbin"),
        ("/a/folder", "/a/folder"),
    ],
)
def test_programs_for_administrators_are_found_by_ordinary_users(
    monkeypatch: pytest.MonkeyPatch, path: str, searched: str
) -> None:
    monkeypatch.setenv("PATH", path)
    assert CliRunner().invoke(main, ["completion", "bash"]).exit_code == 0
    assert os.environ["PATH"] == searched


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(commands(main)), ids=" ".join)
def test_help_shows_its_examples_a_line_each(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(main, [*path, "--help"])
    assert shown.exit_code == 0
    assert "\\b" not in shown.output
    assert re.search(r"^  Examples?:\n    (kickbench |eval )", shown.output, re.MULTILINE)


@pytest.mark.parametrize("path", list(commands(main)), ids=" ".join)
def test_help_fits_into_80_columns(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(main, [*path, "--help"], terminal_width=80)
    assert not [line for line in shown.output.splitlines() if len(line) > 80]
    _, _, listed = shown.output.partition("\nCommands:\n")
    assert not [line for line in listed.splitlines() if line.endswith("...")]


def test_a_lost_second_request_has_the_exit_status_of_a_lost_trial() -> None:
    first = record()
    assert exit_status([first]) == 0
    lost = FollowUp(RequestName.SIGKILL, Outcome.LOST, first.deadline_ns, reason="It ended.")
    assert exit_status([dataclasses.replace(first, then=lost)]) == TrialLost.exit_status


def test_a_hang_of_the_second_request_is_printed_with_its_deadline() -> None:
    hung = FollowUp(RequestName.VIRT_SUSPEND, Outcome.UNANSWERED, 2_000_000_000)
    line = trial_line(dataclasses.replace(record(), then=hung))
    assert "then virt-suspend: unanswered, no answer in 2.0 s" in line


def test_damage_is_reported_even_if_something_else_ends_the_run(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = dataclasses.replace(record(seq=3), recovery=Recovery(None, None, "damaged"))

    def run(self: NativeRunner, cases: object, on_record: Callable[[Record], None]) -> None:
        on_record(damaged)
        raise RecordNotWritten("The disk is full.")

    monkeypatch.setattr(NativeRunner, "run", run)
    shown = CliRunner().invoke(main, ["trial", "--scenario", "paused", "--request", "stop"])
    assert shown.exit_code == MemoryDamaged.exit_status
    loud, sentence = (line for line in shown.output.splitlines() if line.startswith("kickbench: "))
    assert loud.startswith("kickbench: MEMORY DAMAGED: the guest of trial 3 ")
    assert sentence == "kickbench: The disk is full."


@pytest.mark.parametrize(
    "words", [["trial", "--scenario", "idle", "--request", "stop"], ["matrix"]], ids=" ".join
)
def test_more_trials_than_fit_into_memory_are_refused(words: list[str]) -> None:
    shown = CliRunner().invoke(main, [*words, "-n", "999999999999"])
    assert shown.exit_code == 2
    assert "is not in the range" in shown.output


SURVIVOR = process.Survivor(4711, "qemu-system-x86", dead=False, wchan="fuse_flush")


@pytest.mark.parametrize(
    "error, status",
    [(Interrupted(signal.SIGINT), 130), (RecordNotWritten("The disk is full."), 31), (None, 28)],
)
def test_a_process_that_could_not_be_ended_is_reported_however_the_run_ends(
    history: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None, status: int
) -> None:
    def run(self: NativeRunner, cases: object, on_record: object) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(NativeRunner, "run", run)
    monkeypatch.setattr(process, "survivors", lambda: [SURVIVOR])
    shown = CliRunner().invoke(main, ["trial", "--scenario", "paused", "--request", "stop"])
    assert shown.exit_code == status
    assert shown.output.splitlines()[-1] == (
        "kickbench: This could not be ended: process 4711 (qemu-system-x86) survives SIGKILL; it "
        "sleeps in fuse_flush. Free what it waits for, then run `kickbench clean`."
    )
    assert "nothing is left" not in shown.output


MATRIX = ["matrix", "--kernel", "booted", "--kernel", "another"]


@pytest.fixture
def damaged(history: Path, monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """The booted kernel's record, whose guest found damage. No lab comes up."""
    made = [dataclasses.replace(record(seq=3), recovery=Recovery(None, None, "damaged"))]
    monkeypatch.setattr(NativeRunner, "run", lambda self, cases, on_record: on_record(made[0]))
    monkeypatch.setattr(preflight, "lacking", lambda request, manager, lab: None)
    monkeypatch.setattr(preflight, "not_staged", lambda scenario, lab: None)
    monkeypatch.setattr(kernels, "bootable", lambda settings, name: name)

    def no_lab(*arguments: object, **options: object) -> None:
        raise LabLost("The lab did not come up.")

    monkeypatch.setattr(trials.LabRunner, "run", no_lab)
    return made


@pytest.mark.usefixtures("damaged")
def test_damage_under_one_kernel_is_reported_if_the_next_cannot_be_run() -> None:
    shown = CliRunner().invoke(main, MATRIX)
    assert shown.exit_code == MemoryDamaged.exit_status
    assert "MEMORY DAMAGED: the guest of trial 3 " in shown.output
    assert "The lab did not come up." in shown.output


@pytest.mark.usefixtures("damaged")
def test_the_results_of_one_kernel_are_shown_if_the_next_cannot_be_run() -> None:
    shown = CliRunner().invoke(main, MATRIX)
    assert "returned 1.00 ms" in shown.stdout


def test_an_unknown_kernel_is_reported_before_any_trial(
    damaged: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    def bootable(settings: object, name: str) -> None:
        raise UnknownKernel(f"There is no kernel {name}.")

    monkeypatch.setattr(kernels, "bootable", bootable)
    shown = CliRunner().invoke(main, MATRIX)
    assert shown.exit_code == UnknownKernel.exit_status
    assert "MEMORY DAMAGED" not in shown.output


@pytest.mark.usefixtures("damaged")
def test_a_request_that_the_host_cannot_make_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Case] = []

    def run(self: NativeRunner, cases: list[Case], on_record: object) -> None:
        asked.extend(cases)

    def lacking(request: RequestName, manager: ManagerName, *, lab: bool) -> str | None:
        return "gdb is not installed." if request is RequestName.GDB_ATTACH else None

    monkeypatch.setattr(NativeRunner, "run", run)
    monkeypatch.setattr(preflight, "lacking", lacking)
    shown = CliRunner().invoke(main, ["matrix"])
    assert shown.exit_code == 0
    assert "gdb-attach is left out under the booted kernel: gdb is not installed." in shown.output
    assert {each.request for each in asked} == set(offered_by(ManagerName.QEMU)) - {
        RequestName.GDB_ATTACH
    }


@pytest.mark.usefixtures("damaged")
def test_a_scenario_that_the_kernel_cannot_stage_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Case] = []

    def run(self: NativeRunner, cases: list[Case], on_record: object) -> None:
        asked.extend(cases)

    monkeypatch.setattr(NativeRunner, "run", run)
    monkeypatch.setattr(
        batch, "unavailable", lambda scenarios, settings: {ScenarioName.DEGRADED: "No sch_tbf."}
    )
    shown = CliRunner().invoke(main, ["matrix", "--set", "full"])
    assert shown.exit_code == 0
    assert "kickbench: degraded is left out under the booted kernel: No sch_tbf." in shown.output
    assert {each.scenario for each in asked} == {
        each for each in ScenarioName if each.family is not Family.STORAGE
    } - {ScenarioName.DEGRADED}


@pytest.mark.parametrize("words", [["report"], ["gate", "6.1", "6.12"]])
def test_a_defect_has_a_status_of_its_own_and_no_traceback(
    history: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """Python would exit with 1, which is a verdict of the gate."""

    def broken(path: Path) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(files, "read", broken)
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == InternalError.exit_status == 90
    assert shown.output == (
        "kickbench: This is a defect of kickbench, please report it: ZeroDivisionError: division "
        "by zero. Repeat the command with `kickbench -v` to see where it happened.\n"
    )
