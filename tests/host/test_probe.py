"""The probe, on the booted kernel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench_lib import errors
from bench_lib.kvm import userfault
from bench_lib.record import FaultPath, Outcome
from tests.host.conftest import KICKBENCH, Command, all_that_is_left

FEW = ("-n", "20")


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """One for each case that needs any, and afterwards as many as before."""
    reserved = Path("/proc/sys/vm/nr_hugepages")
    before = reserved.read_text()
    reserved.write_text(str(int(before) + 2))
    yield
    reserved.write_text(before)


@pytest.mark.usefixtures("huge_pages")
def test_every_case_takes_the_path_that_it_is_named_after(kickbench: Command) -> None:
    done = kickbench("probe", *FEW, "--json")
    assert done.returncode == 0, done.stderr
    cases = {each["case"]: each for each in json.loads(done.stdout)["cases"]}
    for name, case in cases.items():
        assert case["outcome"] in {"returned", "asleep", "spinning"}, case
        path = next((each for each in FaultPath if name.startswith(each)), FaultPath.NONE)
        assert case["fault_path"] == path
        assert (case["median_us"] is not None) == (case["outcome"] == Outcome.RETURNED)
        assert case["n"] == len(case["wakes_ns"])
    # What no kernel may fail, and what every kernel does.
    for name in ("healthy", "async-pf", "gup-write-sigkill", "uaccess-sigkill"):
        assert cases[name]["outcome"] == Outcome.RETURNED
    assert cases["uaccess"]["outcome"] == Outcome.SPINNING


def test_it_is_told_in_a_table_and_a_sentence(kickbench: Command) -> None:
    done = kickbench("probe", *FEW, "--case", "healthy", "--case", "gup-write")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["case", "healthy", "gup-write"]
    assert lines[3].startswith("this kernel lets go of a vCPU stuck in guest memory: ")


def test_an_unknown_case(kickbench: Command) -> None:
    done = kickbench("probe", "--case", "nothing")
    assert done.returncode == errors.UnknownCase.exit_status
    assert "there is healthy, " in done.stderr


def test_no_kvm_device(clean_host: Path) -> None:
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs tmpfs /dev; exec {KICKBENCH} probe"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == errors.KvmUnavailable.exit_status


def test_a_userfaultfd_that_lacks_something(clean_host: Path) -> None:
    with pytest.raises(errors.UserfaultfdForbidden, match="lacks what is asked for"):
        userfault.open_descriptor(features=1 << 63)


def test_userfaultfd_is_forbidden(clean_host: Path) -> None:
    """To nobody, unless the sysctl allows it."""
    code = (
        "import os; from bench_lib.kvm import userfault; os.setuid(65534);\n"
        "try: userfault.open_descriptor()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() == "0":
        assert done.stdout.startswith("UserfaultfdForbidden userfaultfd(2) is refused")
        assert "vm.unprivileged_userfaultfd=1" in done.stdout
    else:
        assert done.stdout == ""


def test_a_closed_pipe_is_no_traceback(clean_host: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{KICKBENCH} probe -n 1 --case healthy --json | true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr


def test_a_storm_of_signals_is_told_and_not_scored(clean_host: Path) -> None:
    """Signals from elsewhere would pass for wakes, and swallow the probe's own."""
    probe = subprocess.Popen(
        [KICKBENCH, "probe", "-n", "1000000", "--case", "gup-write", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    # Not before it has blocked them, or the first would end it.
    while not (workers := _workers()) or not _is_stuck(workers[0]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    storm = subprocess.Popen(
        ["sh", "-c", f"while kill -USR1 {workers[0]} 2>/dev/null; do :; done"],
        stderr=subprocess.DEVNULL,
    )
    said, _ = probe.communicate(timeout=30)
    storm.wait(timeout=30)
    assert probe.returncode == errors.ProbeFailed.exit_status
    (case,) = json.loads(said)["cases"]
    assert case["outcome"] == Outcome.LOST
    assert case["reason"].startswith(f"Process {storm.pid} signalled the worker too")


@pytest.mark.parametrize("case", ["gup-write", "uaccess"])
def test_a_probe_that_is_killed_leaves_nothing(clean_host: Path, runtime: Path, case: str) -> None:
    probe = subprocess.Popen(
        [KICKBENCH, "probe", "-n", "100000", "--case", case, "--deadline", "60"],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 20
    while not _workers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _workers()
    os.kill(probe.pid, signal.SIGKILL)
    probe.wait()
    while _workers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _workers()
    subprocess.run([KICKBENCH, "clean"], check=True, capture_output=True)
    assert not all_that_is_left(runtime)


def _is_stuck(pid: str) -> bool:
    return Path(f"/proc/{pid}/wchan").read_text() == "handle_userfault"


def _workers() -> list[str]:
    found = subprocess.run(
        ["pgrep", "-f", "bench_lib.kvm.worker"], capture_output=True, text=True, check=False
    )
    return found.stdout.split()
