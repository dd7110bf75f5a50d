# SPDX-License-Identifier: BSD-3-Clause
"""Runs and guests that are killed, stopped or held: nothing is left, and nothing is damaged."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench_lib import cli, ownership, process, record
from bench_lib.deadline import Deadline
from bench_lib.errors import LeftoversRemain
from bench_lib.network import link
from bench_lib.record import HUNG, Outcome, Record
from bench_lib.trial import leftovers
from bench_lib.trial.timeline import STAGES
from tests.conftest import HANG_S
from tests.host.conftest import Command, all_that_is_left

DRIVER = Path(__file__).with_name("driver.py")
MOMENTS = ("first-guest", *STAGES)
RECORDS = Path(".asv/records.jsonl")


def _drive(
    scenario: str, stage: str, action: str, left_s: float = 0, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run the driver.

    :param left_s: the seconds that a wait may take after the action; 0 for the usual limits.
    :param arguments: more arguments of `kickbench trial`.
    """
    return subprocess.run(
        [sys.executable, DRIVER, scenario, stage, action, str(left_s), *arguments],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


@pytest.mark.parametrize("scenario", ["idle", "blackhole", "paused", "frozen-source"])
@pytest.mark.parametrize("stage", MOMENTS)
def test_after_a_kill_in_any_stage_clean_leaves_nothing(
    clean_host: Path, runtime: Path, scenario: str, stage: str
) -> None:
    if scenario == "idle" and stage in {"postcopy", "outage", "recovery"}:
        stage = "guest-up"  # idle has no such stage, so this one is tested twice
    done = _drive(scenario, stage, "killed")
    assert done.returncode == -9, done.stderr
    left = leftovers.find(runtime)
    assert left.folders, "the run has left nothing, so nothing has been tried"
    ended = leftovers.end(runtime)
    assert ended.folders == left.folders
    assert not all_that_is_left(runtime)
    (run_id,) = (folder.name for folder in left.folders)
    assert not [name for name in link.existing() if run_id in name]
    assert not RECORDS.exists()


@pytest.mark.usefixtures("clean_host")
@pytest.mark.parametrize("stage", ["guest-up", "postcopy", "request"])
def test_after_a_kill_clean_leaves_nothing_of_a_guest_with_255_vcpus(
    runtime: Path, stage: str
) -> None:
    done = _drive("blackhole", stage, "killed", 0, "--vcpus", "255")
    assert done.returncode == -9, done.stderr
    assert leftovers.end(runtime).folders
    assert not all_that_is_left(runtime)


@pytest.mark.parametrize("stage", MOMENTS)
@pytest.mark.parametrize("action, status", [("interrupted", 130), ("terminated", 143)])
def test_a_signal_in_any_stage_ends_the_run_in_order(
    clean_host: Path, runtime: Path, stage: str, action: str, status: int
) -> None:
    done = _drive("blackhole", stage, action)
    assert done.returncode == status, done.stderr
    assert "Interrupted by SIG" in done.stderr
    assert "Traceback" not in done.stderr
    assert not all_that_is_left(runtime)


@pytest.mark.parametrize("role", ["source", "destination"])
@pytest.mark.parametrize("stage", ["first-guest", *STAGES[1 : STAGES.index("request") + 1]])
def test_a_guest_that_dies_in_any_stage_is_a_lost_trial(
    clean_host: Path, stage: str, role: str
) -> None:
    if stage == "first-guest":
        role = "source"  # the destination has not been started yet
    done = _drive("blackhole", stage, f"killed-{role}")
    assert done.returncode == 4, done.stderr + done.stdout
    made = _only_record()
    assert made.outcome is Outcome.LOST
    assert made.latency_ns is None
    assert made.reason is not None
    assert "was killed by signal 9" in made.reason
    assert made.reason in done.stdout


WAITED_S = 1
"""Seconds that a stopped guest is waited for. It never answers, so this is never too short. The
limits before the guest is stopped are the usual ones."""


@pytest.mark.parametrize(
    "role, stage",
    [
        *(("source", stage) for stage in ("first-guest", "guest-up", "prepare", "postcopy")),
        *(
            ("destination", stage)
            for stage in ("guest-up", "prepare", "postcopy", "outage", "proof")
        ),
    ],
)
def test_a_guest_that_is_stopped_before_the_request_is_a_lost_trial(
    clean_host: Path, role: str, stage: str
) -> None:
    done = _drive("blackhole", stage, f"stopped-{role}", WAITED_S)
    assert done.returncode == 4, done.stderr + done.stdout
    made = _only_record()
    assert made.outcome is Outcome.LOST
    assert made.reason is not None
    assert made.reason.endswith(".")
    assert made.reason in done.stdout
    assert not made.survivors
    assert not done.stderr


def test_a_guest_that_is_stopped_gives_no_answer(clean_host: Path) -> None:
    """It is a hang like any other, and no thread of it is to blame."""
    done = _drive("blackhole", "request", "stopped-destination", WAITED_S)
    assert done.returncode == 0, done.stderr + done.stdout
    made = _only_record()
    assert (made.outcome, made.latency_ns, made.late_ns) == (Outcome.UNANSWERED, None, None)
    assert {thread.state for thread in made.evidence.after} == {"T"}
    assert made.evidence.blocker is None
    assert not done.stderr


@pytest.mark.parametrize(
    "role, stage",
    [
        # From then on the destination does not need a running source.
        *(("source", stage) for stage in ("outage", "proof", "request", "evidence", "release")),
        *(("destination", stage) for stage in ("evidence", "release")),
    ],
)
def test_a_guest_that_is_stopped_when_it_is_not_needed_any_more_changes_nothing(
    clean_host: Path, role: str, stage: str
) -> None:
    done = _drive("blackhole", stage, f"stopped-{role}")
    assert done.returncode == 0, done.stderr + done.stdout
    assert _only_record().outcome is Outcome.RETURNED
    assert not done.stderr


@pytest.mark.parametrize("role", ["source", "destination"])
def test_a_guest_that_is_stopped_before_its_recovery_keeps_its_measurement(
    clean_host: Path, role: str
) -> None:
    done = _drive("blackhole", "recovery", f"stopped-{role}", WAITED_S)
    assert done.returncode == 4, done.stderr + done.stdout
    made = _only_record()
    assert made.outcome is Outcome.RETURNED
    assert made.recovery is not None
    assert made.recovery.failure is not None
    assert made.recovery.failure in done.stdout
    assert not done.stderr


@contextmanager
def _held(
    folder: Path, role: str, stage: str, *arguments: str, left_s: float = 0
) -> Iterator[subprocess.CompletedProcess[str]]:
    """A finished run with a QEMU that SIGKILL does not end until the context is left."""
    output = folder / "stdout", folder / "stderr"
    with (
        output[0].open("w") as stdout,
        output[1].open("w") as stderr,
        subprocess.Popen(
            [sys.executable, DRIVER, "blackhole", stage, f"held-{role}", str(left_s), *arguments],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
        ) as driver,
    ):
        status = driver.wait(HANG_S)
        yield subprocess.CompletedProcess(
            driver.args, status, *(each.read_text() for each in output)
        )


@pytest.mark.parametrize(
    "role, stage",
    [
        ("source", "first-guest"),
        ("source", "outage"),
        *(("destination", stage) for stage in STAGES[1:]),
    ],
)
def test_a_guest_that_cannot_be_ended_is_reported_and_left_to_clean(
    clean_host: Path,
    runtime: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    role: str,
    stage: str,
) -> None:
    monkeypatch.setattr(leftovers, "LAST_BREATH_S", 0.5)
    with _held(tmp_path, role, stage, "-n", "2") as done:
        records, damaged = record.read(RECORDS)
        assert not damaged
        # The next trial is made all the same.
        assert [each.outcome for each in records] == [Outcome.RETURNED] * 2, done.stdout
        assert [len(each.survivors) for each in records] == [1, 0]
        (survivor,) = records[0].survivors
        assert "(qemu-system-x86) survives SIGKILL; it sleeps in ptrace_stop" in survivor
        assert survivor in done.stdout
        assert done.returncode == LeftoversRemain.exit_status, done.stderr
        assert f"{survivor}. Free what it waits for, then run `kickbench clean`." in done.stderr
        assert "Traceback" not in done.stderr
        for _ in range(2):
            cleaned = CliRunner().invoke(cli.main, ["clean"])
            assert cleaned.exit_code == LeftoversRemain.exit_status
            assert f"This could not be ended: {survivor}" in cleaned.stderr
    _until_nothing_is_left(runtime)


def test_a_sigkill_that_ends_nothing_is_a_hang(
    clean_host: Path, runtime: Path, tmp_path: Path
) -> None:
    argv = ("--request", "sigkill", "--deadline", "0.5")
    with _held(tmp_path, "destination", "request", *argv) as done:
        made = _only_record()
        assert made.outcome in HUNG, made.reason
        assert made.late_ns is None
        assert len(made.survivors) == 1
        assert done.returncode == LeftoversRemain.exit_status
    _until_nothing_is_left(runtime)


def test_the_exit_status_of_a_lost_trial_comes_before_that_of_a_survivor(
    clean_host: Path, runtime: Path, tmp_path: Path
) -> None:
    with _held(tmp_path, "destination", "guest-up", left_s=0.001) as done:
        (survivor,) = _only_record().survivors
        assert done.returncode == 4
        assert f"{survivor}. Free what it waits for, then run `kickbench clean`." in done.stderr
    _until_nothing_is_left(runtime)


def _until_nothing_is_left(runtime: Path) -> None:
    """Wait for the end of a guest that was killed and is not held any more."""
    deadline = Deadline.after(HANG_S)
    while leftovers.end(runtime).lines():
        assert not deadline.passed


def _only_record() -> Record:
    ((made,), damaged) = record.read(RECORDS)
    assert not damaged
    return made


def test_a_second_run_is_refused_while_one_measures(
    clean_host: Path, run: object, kickbench: Command
) -> None:
    done = kickbench("trial", "--scenario", "idle", "--request", "stop")
    assert done.returncode == 27
    assert "Another run" in done.stderr
    assert not RECORDS.exists()


def test_clean_does_not_touch_a_living_run(runtime: Path, run: object, kickbench: Command) -> None:
    done = kickbench("clean")
    assert (done.returncode, done.stdout) == (0, "Nothing is left of any run.\n")


def test_clean_ends_a_process_that_outlived_its_run(
    clean_host: Path, runtime: Path, tmp_path: Path, kickbench: Command
) -> None:
    with ownership.measuring(runtime) as dead:
        mark = dead.mark
    with process.started(["sleep", "1000"], env=mark, output=tmp_path / "log") as sleeper:
        assert f"process {sleeper.pid} (sleep)" in kickbench("clean", "--dry-run").stdout
        assert sleeper.exit_status is None
        assert f"ended process {sleeper.pid} (sleep)" in kickbench("clean").stdout
        assert sleeper.reaped_within(HANG_S)
        assert sleeper.exit_status == -9


def test_clean_ends_nothing_of_a_living_run_or_of_another_runtime_folder(
    clean_host: Path, runtime: Path, tmp_path: Path, kickbench: Command
) -> None:
    with ownership.measuring(runtime) as alive, ownership.measuring(tmp_path / "other") as other:
        for run in (alive, other):
            with (
                link.joined(run, 1) as ends,
                process.started(
                    ["sleep", "1000"], env=run.mark, output=tmp_path / "log"
                ) as sleeper,
            ):
                assert kickbench("clean").stdout == "Nothing is left of any run.\n"
                assert sleeper.exit_status is None
                assert {end.namespace for end in ends.ends} <= set(link.existing())


def test_clean_shows_what_it_would_end(clean_host: Path, runtime: Path, kickbench: Command) -> None:
    _drive("blackhole", "proof", "killed")
    would = kickbench("clean", "--dry-run").stdout
    assert would.count("would end network namespace") == 2
    assert kickbench("clean", "--dry-run").stdout == would
    assert kickbench("clean").stdout == would.replace("would end", "ended")


def test_a_full_disk_damages_no_record(
    clean_host: Path, kickbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    monkeypatch.setenv("KICKBENCH_RECORDS", str(folder / "records.jsonl"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        done = kickbench("trial", "--scenario", "idle", "--request", "stop", "-n", "40")
        records, damaged = record.read(folder / "records.jsonl")
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert done.returncode == 31
    assert "No space left on device" in done.stderr
    assert "as it was before" in done.stderr
    assert not damaged
    assert [each.seq for each in records] == list(range(1, len(records) + 1))
    assert records
