# SPDX-License-Identifier: BSD-3-Clause
"""The doctor, on this host and on hosts that lack something."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench_lib import doctor, ownership, threads
from bench_lib.settings import Settings
from tests.host.conftest import KICKBENCH, Command


def _rows(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    return {row["name"]: row for row in json.loads(done.stdout)["rows"]}


@pytest.fixture
def huge_pages_as_before() -> Iterator[None]:
    reserved = Path("/proc/sys/vm/nr_hugepages")
    before = reserved.read_text()
    yield
    reserved.write_text(before)


def test_this_host_can_run_trials(kickbench: Command) -> None:
    """The other tests in this folder run trials too."""
    done = kickbench("doctor", "--json")
    assert done.returncode == 0, done.stdout
    said = json.loads(done.stdout)
    assert said["native"] is True
    assert said["lab"] is True
    rows = _rows(done)
    assert {*doctor.NATIVE, *doctor.LAB} <= rows.keys()
    for row in rows.values():
        assert row["status"] in {"fine", "degraded"}
        assert bool(row["means"]) is (row["status"] != "fine")


def test_the_recommended_command_fixes_what_is_degraded(
    kickbench: Command, huge_pages_as_before: None
) -> None:
    Path("/proc/sys/vm/nr_hugepages").write_text("0")
    row = _rows(kickbench("doctor", "--json"))["huge pages"]
    assert row["status"] == "degraded"
    # In a shell, into which users paste it.
    subprocess.run(["sh", "-ec", row["fix"]], check=True, capture_output=True)
    assert _rows(kickbench("doctor", "--json"))["huge pages"]["status"] == "fine"


def test_leftovers_of_killed_runs_are_found_and_the_fix_ends_them(
    kickbench: Command, runtime: Path
) -> None:
    with ownership.measuring(runtime) as run:
        dead = run.id
    (runtime / dead).mkdir()
    row = _rows(kickbench("doctor", "--json"))["leftovers"]
    assert row["status"] == "degraded"
    assert dead in row["found"]
    subprocess.run(["sh", "-ec", row["fix"]], check=True, capture_output=True)
    assert _rows(kickbench("doctor", "--json"))["leftovers"]["status"] == "fine"


def test_beside_a_run_the_doctor_does_not_try_outages(kickbench: Command, runtime: Path) -> None:
    with ownership.measuring(runtime):
        done = kickbench("doctor", "--json")
    assert done.returncode == 0
    row = _rows(done)["outages"]
    assert (row["status"], row["found"]) == ("degraded", "not tried")


def test_without_kvm_only_the_lab_can_be_used(clean_host: Path) -> None:
    no_kvm = "mount -t tmpfs t /dev && mknod /dev/null c 1 3 && mkdir /dev/shm"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{no_kvm} && exec {KICKBENCH} doctor --json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    row = _rows(done)["kvm"]
    assert row["status"] == "missing"
    # The module to load depends on the processor; a virtual one may have none.
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert (row["fix"] is not None) == bool(flags & {"vmx", "svm"})


def test_a_host_before_the_set_up(kickbench: Command, tmp_path: Path) -> None:
    """PATH has only the programs that the doctor itself runs."""
    few = tmp_path / "bin"
    few.mkdir()
    for name in ("sleep", "true"):
        (few / name).symlink_to(str(shutil.which(name)))
    done = kickbench("doctor", "--json", env={**os.environ, "PATH": str(few)})
    assert done.returncode == 2, done.stdout
    rows = _rows(done)
    missing = {name for name, row in rows.items() if row["status"] == "missing"}
    assert missing == {"qemu", "network tools", "outages", "lab programs"}
    assert rows["gdb"]["status"] == "degraded"
    for name, package in {
        "qemu": "qemu-system-x86",
        "network tools": "iproute2",
        "gdb": "gdb",
        "lab programs": "busybox-static",
    }.items():
        assert rows[name]["fix"].endswith(f" {package}")


def test_an_ordinary_user_is_shown_what_needs_root(clean_host: Path, tmp_path: Path) -> None:
    # An ordinary user may not be able to read the interpreter's folder. So root starts it, and
    # it changes its user after the imports.
    code = (
        "import libarchive, os; from bench_lib.cli import main; os.setgroups([]); os.setgid(65534);"
        "os.setuid(65534); main(['doctor', '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    rows = _rows(done)
    assert rows["root"]["status"] == "missing"
    assert rows["root"]["fix"].startswith("sudo ")
    assert rows["outages"]["status"] == "missing"
    # Trials need root, and root may always use userfaultfd.
    assert rows["userfaultfd"]["fix"] is None


def test_a_damaged_cache_is_a_row(
    kickbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = tmp_path / "cache" / "kernels" / "6.1.0-1-amd64_0"
    build.mkdir(parents=True)
    (build / "build.json").write_text("{")
    monkeypatch.setenv("KICKBENCH_CACHE", str(tmp_path / "cache"))
    row = _rows(kickbench("doctor", "--json"))["lab disk"]
    assert row["status"] == "missing"
    assert f"delete {build}" in row["found"]


def test_a_kernel_that_hides_stacks_is_a_row(
    history: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(pid: int, tid: int) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/proc/1/stack")

    monkeypatch.setattr(threads, "observe", hidden)
    rows = {row.name: row for row in doctor.examine(Settings.from_environment())}
    assert rows["kernel stacks"].status == "missing"
    assert not doctor.native_runs(list(rows.values()))


def test_a_closed_pipe_is_not_an_error(clean_host: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{KICKBENCH} doctor --json | true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
