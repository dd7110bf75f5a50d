# SPDX-License-Identifier: BSD-3-Clause
"""The probe, on the booted kernel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from bench_lib import errors, storage, threads
from bench_lib.deadline import Deadline
from bench_lib.host import fuse, userfaultfd
from bench_lib.kvm import cases, offered, probe, userfault
from bench_lib.kvm.cases import ProbeCase, Wake
from bench_lib.kvm.offered import Offer
from bench_lib.kvm.programs import PROGRAMS
from bench_lib.kvm.worker_process import WorkerProcess
from bench_lib.ownership import Run
from bench_lib.record import Backing, Entry, Outcome, WaitsFor
from bench_lib.storage.fuse import Stall
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
def test_every_case_takes_its_path(kickbench: Command) -> None:
    done = kickbench("probe", *FEW, "--json")
    assert done.returncode == 0, done.stderr
    results = {each["case"]: each for each in json.loads(done.stdout)["cases"]}
    offer = offered.here()
    tried = [each for each in cases.CASES if offer.lacks(PROGRAMS[each.program]) is None]
    expected = {each.name: each for each in tried}
    assert {name for name, result in results.items() if result["outcome"]} == set(expected)
    for name, case in expected.items():
        result = results[name]
        assert result["outcome"] in {"returned", "asleep", "spinning"}, result
        assert (result["fault_path"], result["waits_for"]) == (case.path, case.waits_for)
        assert (result["outcome"], result["state"]) in _possible(case), result
        assert (result["median_us"] is not None) == (result["outcome"] == Outcome.RETURNED), result
        assert result["n"] == len(result["wakes_ns"])


def _possible(case: ProbeCase) -> set[tuple[Outcome, str]]:
    """Return how a case can end, and in which states its vCPU can be before, on all kernels."""
    calls = case.wake.calls and case.wake is not Wake.SIGKILL
    if case.path is Entry.NONE:
        return {(Outcome.RETURNED, "R")}
    if case.path is Entry.ASYNC_PF:
        return {(Outcome.RETURNED, "S")}
    if isinstance(case.mode, Stall):
        # A synchronous read sleeps in S until it is called.
        killed = {Outcome.RETURNED} if case.mode is Stall.HOLD else {Outcome.ASLEEP}
        outcomes = killed if case.wake is Wake.SIGKILL else {Outcome.ASLEEP}
        return {(each, "S" if case.mode is Stall.SYNC else "D") for each in outcomes}
    if case.wake in {Wake.SIGKILL, Wake.DEAD_SERVER}:
        return {(Outcome.RETURNED, "S"), (Outcome.RETURNED, "D")}
    if case.path is Entry.UACCESS and calls:
        return {(Outcome.SPINNING, "S")}
    if case.path is Entry.GPC and calls:
        return {(Outcome.ASLEEP, "D")}
    if case.wake is Wake.MEMSLOT:
        return {(Outcome.ASLEEP, "S"), (Outcome.ASLEEP, "D")}
    # With and without the flag.
    return {(Outcome.RETURNED, "S"), (Outcome.ASLEEP, "D")}


@pytest.mark.parametrize(
    "case, function",
    [
        ("pv-eoi", "kvm_lapic_sync_to_vapic"),
        ("async-pf-data", "kvm_check_async_pf_completion"),
        ("kvmclock", "kvm_set_msr_common"),
    ],
)
def test_the_stack_shows_the_structure_that_is_missing(run: Run, case: str, function: str) -> None:
    (result,) = probe.run(run, cases.named([case]), 1, 0.2, lambda _: None)
    assert function in result.stack
    assert result.waits_for is WaitsFor.USERFAULT
    hangs = Outcome.ASLEEP if case == "kvmclock" else Outcome.SPINNING
    assert result.outcome is hangs, result.reason


def test_a_memory_slot_cannot_be_added_beside_a_stuck_vcpu(run: Run) -> None:
    """Nothing calls the vCPU back, which keeps the memory slots that it uses."""
    names = ["healthy-memslot", "gup-write-memslot"]
    healthy, stuck = probe.run(run, cases.named(names), 2, HANG_S / 100, lambda _: None)
    assert healthy.outcome is Outcome.RETURNED, healthy.reason
    assert len(healthy.wakes_ns) == 2
    assert stuck.outcome is Outcome.ASLEEP, stuck.reason
    assert stuck.after is not None
    assert stuck.after.state == "D"
    assert any("srcu" in function for function in stuck.after.stack)
    assert stuck.note is not None
    assert stuck.note.startswith("The thread that adds the memory slot: D ")
    assert stuck.fault_path is Entry.GUP


def test_a_guest_whose_page_server_dies_goes_on_with_zeros(run: Run) -> None:
    (result,) = probe.run(run, cases.named(["dead-server"]), 2, HANG_S, lambda _: None)
    assert result.outcome is Outcome.RETURNED, result.reason
    assert len(result.wakes_ns) == 2
    assert result.note == probe.ZEROS


def test_a_guest_that_reads_something_else_is_not_scored(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkerProcess, "close_userfaultfd", lambda *_: (1, 0x55))
    (result,) = probe.run(run, cases.named(["dead-server"]), 1, HANG_S, lambda _: None)
    assert (result.outcome, result.note) == (Outcome.LOST, None)
    assert result.reason == "The guest read 0x55 instead of zeros."


def test_a_memory_slot_that_is_added_late_is_not_a_hang(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = WorkerProcess.add_memory

    def given_up(worker: WorkerProcess, deadline_s: float) -> None:
        assert add(worker, 0) is None

    monkeypatch.setattr(WorkerProcess, "add_memory", given_up)
    (result,) = probe.run(run, cases.named(["healthy-memslot"]), 1, HANG_S, lambda _: None)
    assert result.outcome is Outcome.LOST
    assert result.reason is not None
    assert "returned, but only after the deadline" in result.reason


@pytest.mark.parametrize("case", ["gup-write-fuse-sigkill", "gup-write-fuse-sync-sigkill"])
def test_fuse_answers_before_the_worker_is_killed(run: Run, case: str) -> None:
    """A worker that has asked for a page synchronously does not die before."""
    (result,) = probe.run(run, cases.named([case]), 1, 0.2, lambda _: None)
    assert result.outcome in {Outcome.RETURNED, Outcome.ASLEEP}, result.reason
    assert not processes(run.folder.parent, WORKER)
    assert not list(run.folder.iterdir())


def test_without_fuse_its_cases_are_left_out_with_the_reason(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fuse, "DEVICE", tmp_path / "fuse")
    (result,) = probe.run(run, cases.named(["gup-write-fuse"]), 1, HANG_S, lambda _: None)
    assert result.outcome is None
    assert result.reason is not None
    assert "no FUSE file system can be served" in result.reason


@pytest.mark.parametrize(
    "program, reason",
    [
        ("print('Line one.'); print('Line two.')", "The FUSE server failed: Line two."),
        ("pass", "The FUSE server failed: it ended silently"),
    ],
)
def test_a_fuse_server_that_does_not_start_is_reported(
    run: Run, monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    monkeypatch.setattr(storage.fuse, "SERVER", ("-c", program))
    (result,) = probe.run(run, cases.named(["gup-write-fuse"]), 1, HANG_S, lambda _: None)
    assert (result.outcome, result.reason) == (Outcome.LOST, reason)


def test_a_case_that_this_kvm_cannot_run_is_left_out_with_the_reason(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offered, "here", lambda: Offer(0, pre_faults=False, virtual_apic=False))
    names = ["steal-time", "pre-fault"]
    for result in probe.run(run, cases.named(names), 1, 1.0, lambda _: None):
        assert result.outcome is None
        assert result.reason is not None
        assert result.reason.startswith("This KVM ")


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
    (case,) = cases.named(["async-pf"])

    def stopped_and_called(
        worker: WorkerProcess, number: signal.Signals, deadline_s: float
    ) -> int | None:
        for each, state in ((signal.SIGSTOP, os.WSTOPPED), (signal.SIGCONT, os.WCONTINUED)):
            os.kill(worker.pid, each)
            os.waitid(os.P_PID, worker.pid, state)
        # It has left KVM for the stop, and is called only when it is inside again.
        worker.stuck(case.path, case.waits_for)
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
    (result,) = probe.run(run, cases.named(["gup-read-memfd-minor"]), 1, 1.0, lambda _: None)
    assert result.outcome is None
    assert result.reason is not None
    assert "lacks a feature that kickbench needs" in result.reason


def test_a_wake_after_the_deadline_is_not_a_hang(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def called_and_given_up(
        worker: WorkerProcess, number: signal.Signals, deadline_s: float
    ) -> None:
        threads.kick(worker.pid, worker.pid, number)

    monkeypatch.setattr(WorkerProcess, "signal", called_and_given_up)
    (result,) = probe.run(run, cases.named(["gup-write"]), 1, 1.0, lambda _: None)
    assert result.outcome is Outcome.LOST
    assert result.reason is not None
    assert "only after the deadline" in result.reason


@pytest.mark.parametrize("case", ["gup-write", "uaccess", "gup-write-fuse-sync"])
def test_a_probe_that_is_killed_leaves_nothing(start: Start, runtime: Path, case: str) -> None:
    running = start("-n", "1000000", "--case", case, "--deadline", str(HANG_S))
    if case == "uaccess":
        _spinning_worker(runtime)
    elif case == "gup-write-fuse-sync":
        _stuck_worker(runtime, "request_wait_answer")
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


def _stuck_worker(runtime: Path, function: str = "handle_userfault") -> int:
    """Wait for a worker whose vCPU sleeps in a function of the kernel, and return its pid."""
    deadline = Deadline.after(HANG_S)
    while True:
        for worker in processes(runtime, WORKER):
            with suppress(FileNotFoundError):
                if Path(f"/proc/{worker}/wchan").read_text() == function:
                    return worker
        assert not deadline.passed


def _spinning_worker(runtime: Path) -> int:
    """Wait for a worker that was called and then used CPU time, and return its pid."""
    worker = _worker(runtime)
    deadline = Deadline.after(HANG_S)
    while not (called := threads.observe(worker, worker)).called:
        assert not deadline.passed
    while threads.observe(worker, worker).cpu_ns == called.cpu_ns:
        assert not deadline.passed
    return worker
