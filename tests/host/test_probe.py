# SPDX-License-Identifier: BSD-3-Clause
"""The probe, on the booted kernel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench_lib import errors, threads
from bench_lib.deadline import Deadline
from bench_lib.host import userfaultfd
from bench_lib.kvm import probe, userfault
from bench_lib.kvm.worker_process import WorkerProcess
from bench_lib.ownership import Run
from bench_lib.record import Backing, Entry, Outcome
from tests.conftest import HANG_S
from tests.host.conftest import (
    KICKBENCH,
    WORKER,
    Command,
    all_that_is_left,
    more_huge_pages,
    processes,
)

FEW = ("-n", "20")


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """The huge page that a worker needs, and another because the kernel may free one late."""
    with more_huge_pages(2):
        yield


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(clean_host: Path) -> Iterator[Start]:
    """Starts probes, which are killed at the end of the test."""
    with ExitStack() as stack:

        def started(
            *arguments: str, stdout: int = subprocess.DEVNULL, stderr: int | None = None
        ) -> subprocess.Popen[str]:
            running = subprocess.Popen(
                [KICKBENCH, "probe", *arguments],
                text=True,
                start_new_session=True,
                stdout=stdout,
                stderr=stderr,
            )
            stack.enter_context(running)
            stack.callback(running.kill)
            return running

        yield started


@pytest.mark.usefixtures("huge_pages")
def test_every_case_takes_the_path_that_it_is_named_after(kickbench: Command) -> None:
    done = kickbench("probe", *FEW, "--json")
    assert done.returncode == 0, done.stderr
    cases = {each["case"]: each for each in json.loads(done.stdout)["cases"]}
    for name, case in cases.items():
        assert case["outcome"] in {"returned", "asleep", "spinning"}, case
        path = next((each for each in Entry if name.startswith(each)), Entry.NONE)
        assert case["fault_path"] == path
        assert (case["median_us"] is not None) == (case["outcome"] == Outcome.RETURNED)
        assert case["n"] == len(case["wakes_ns"])
    # No kernel may hang in these, and every kernel spins in `uaccess`.
    for name in ("healthy", "async-pf", "gup-write-sigkill", "uaccess-sigkill"):
        assert cases[name]["outcome"] == Outcome.RETURNED
    assert cases["uaccess"]["outcome"] == Outcome.SPINNING


def test_the_results_are_a_table_and_a_sentence(kickbench: Command) -> None:
    done = kickbench("probe", *FEW, "--case", "healthy", "--case", "gup-write")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["case", "healthy", "gup-write"]
    assert lines[3].startswith("this kernel lets go of a vCPU stuck in guest memory: ")


def test_an_unknown_case(kickbench: Command) -> None:
    done = kickbench("probe", "--case", "nothing")
    assert done.returncode == errors.UnknownCase.exit_status
    assert "the cases are healthy, " in done.stderr


def test_no_kvm_device(clean_host: Path) -> None:
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs tmpfs /dev; exec {KICKBENCH} probe"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == errors.KvmUnavailable.exit_status


def test_a_userfaultfd_that_lacks_something(clean_host: Path) -> None:
    with pytest.raises(errors.UserfaultfdForbidden, match="lacks a feature that kickbench needs"):
        userfaultfd.open_descriptor(features=1 << 63)


def test_userfaultfd_is_forbidden(clean_host: Path) -> None:
    """The user nobody may not use it, unless the sysctl allows it."""
    code = (
        "import os; from bench_lib.host import userfaultfd; os.setuid(65534);\n"
        "try: userfaultfd.open_descriptor()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() == "0":
        assert done.stdout.startswith("UserfaultfdForbidden The kernel refuses userfaultfd(2)")
        assert "vm.unprivileged_userfaultfd=1" in done.stdout
    else:
        assert done.stdout == ""


def test_a_closed_pipe_is_not_an_error(clean_host: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{KICKBENCH} probe -n 1 --case healthy --json | true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_signals_from_another_process_are_reported_and_not_scored(
    start: Start, runtime: Path
) -> None:
    """They would look like wakes, and merge with the probe's own signals."""
    running = start("-n", "1000000", "--case", "gup-write", "--json", stdout=subprocess.PIPE)
    # The worker must have blocked the signal, or the first one would end it.
    worker = _stuck_worker(runtime)
    storm = subprocess.Popen(
        ["sh", "-c", f"while kill -USR1 {worker} 2>/dev/null; do :; done"],
        stderr=subprocess.DEVNULL,
    )
    said, _ = running.communicate(timeout=HANG_S)
    storm.wait(timeout=HANG_S)
    assert running.returncode == errors.ProbeFailed.exit_status
    (case,) = json.loads(said)["cases"]
    assert case["outcome"] == Outcome.LOST
    assert case["reason"].startswith(f"Process {storm.pid} signalled the worker too")


def test_a_worker_that_was_stopped_for_a_while_measures_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop and its end call the vCPU back too, but the probe must not count that as its wake.

    It is one that every kernel lets go of, or it could not be stopped.
    """
    wake = WorkerProcess.signal
    (case,) = probe.named(["async-pf"])

    def stopped_and_called(
        worker: WorkerProcess, number: signal.Signals, deadline_s: float
    ) -> int | None:
        for each, state in ((signal.SIGSTOP, os.WSTOPPED), (signal.SIGCONT, os.WCONTINUED)):
            os.kill(worker.pid, each)
            os.waitid(os.P_PID, worker.pid, state)
        # It has left KVM for the stop, and is called only when it is inside again.
        worker.stuck(case.path)
        return wake(worker, number, deadline_s)

    monkeypatch.setattr(WorkerProcess, "signal", stopped_and_called)
    (result,) = probe.run(run, [case], 20, HANG_S, lambda _: None)
    assert result.outcome is Outcome.RETURNED, result.reason
    assert len(result.wakes_ns) == 20
    assert min(result.wakes_ns) > 0


def test_a_case_that_this_kernel_cannot_run_is_left_out_with_the_reason(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(userfault.FEATURES, ("minor", Backing.MEMFD), 1 << 63)
    (result,) = probe.run(run, probe.named(["gup-read-memfd-minor"]), 1, 1.0, lambda _: None)
    assert result.outcome is None
    assert result.reason is not None
    assert "lacks a feature that kickbench needs" in result.reason


def test_a_wake_after_the_deadline_is_not_a_hang(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def called_and_given_up(
        worker: WorkerProcess, number: signal.Signals, deadline_s: float
    ) -> None:
        threads.kick(worker.pid, worker.pid, number)

    monkeypatch.setattr(WorkerProcess, "signal", called_and_given_up)
    (result,) = probe.run(run, probe.named(["gup-write"]), 1, 1.0, lambda _: None)
    assert result.outcome is Outcome.LOST
    assert result.reason is not None
    assert "only after the deadline" in result.reason


@pytest.mark.parametrize("case", ["gup-write", "uaccess"])
def test_a_probe_that_is_killed_leaves_nothing(start: Start, runtime: Path, case: str) -> None:
    running = start("-n", "1000000", "--case", case, "--deadline", str(HANG_S))
    if case == "uaccess":
        _spinning_worker(runtime)
    else:
        _stuck_worker(runtime)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    deadline = Deadline.after(HANG_S)
    while processes(runtime, WORKER):
        assert not deadline.passed
    subprocess.run([KICKBENCH, "clean"], check=True, capture_output=True)
    assert not all_that_is_left(runtime)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_probe_that_is_interrupted_leaves_nothing(
    start: Start, runtime: Path, number: signal.Signals
) -> None:
    running = start("-n", "1000000", "--case", "gup-write", stderr=subprocess.PIPE)
    _stuck_worker(runtime)
    running.send_signal(number)
    _, said = running.communicate(timeout=HANG_S)
    assert running.returncode == 128 + number
    assert f"Interrupted by {number.name}" in said
    assert not all_that_is_left(runtime)


def _worker(runtime: Path) -> int:
    """Wait for a worker, and return its pid."""
    deadline = Deadline.after(HANG_S)
    while not (workers := processes(runtime, WORKER)):
        assert not deadline.passed
    return workers[0]


def _stuck_worker(runtime: Path) -> int:
    """Wait for a worker whose vCPU is stuck, and return its pid."""
    worker = _worker(runtime)
    deadline = Deadline.after(HANG_S)
    while Path(f"/proc/{worker}/wchan").read_text() != "handle_userfault":
        assert not deadline.passed
    return worker


def _spinning_worker(runtime: Path) -> int:
    """Wait for a worker that was called and then used CPU time, and return its pid."""
    worker = _worker(runtime)
    deadline = Deadline.after(HANG_S)
    while not (called := threads.observe(worker, worker)).called:
        assert not deadline.passed
    while threads.observe(worker, worker).cpu_ns == called.cpu_ns:
        assert not deadline.passed
    return worker
