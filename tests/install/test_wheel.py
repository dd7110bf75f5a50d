# SPDX-License-Identifier: BSD-3-Clause
"""A wheel that is installed into an empty environment, without a checkout."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench_lib.errors import HostError
from bench_lib.host import device
from bench_lib.trial import leftovers
from tests.conftest import CHECKOUT, HANG_S, NO_KVM

Command = Callable[..., subprocess.CompletedProcess[str]]

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that has only the wheel and its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [
            sys.executable,
            *pip,
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            folder,
            CHECKOUT,
        ],
        check=True,
    )
    (wheel,) = folder.glob("kickbench-*.whl")
    subprocess.run([sys.executable, "-m", "venv", folder / "environment"], check=True)
    python = folder / "environment" / "bin" / "python"
    # With the versions of the lock, new releases change nothing here. Its hashes cannot be used,
    # because the wheel has none.
    locked = re.findall(
        r"^(\S+==.*?) *\\$", (CHECKOUT / "requirements.lock").read_text(), re.MULTILINE
    )
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(locked))
    subprocess.run([python, *pip, "install", "-c", constraints, wheel], check=True)
    return folder / "environment"


@pytest.fixture
def installed(environment: Path, tmp_path: Path) -> Command:
    """Runs a program of the environment, as a user who has nothing else of kickbench."""
    home = tmp_path / "home"
    home.mkdir()

    def run(program: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            [environment / "bin" / program, *arguments],
            **{
                "capture_output": True,
                "text": True,
                "timeout": HANG_S,
                "check": False,
                "cwd": tmp_path,
                "env": {
                    "PATH": SYSTEM_PATH,
                    "HOME": str(home),
                    "KICKBENCH_RUNTIME": str(tmp_path / "runtime"),
                    "KICKBENCH_TRIALS": "1",
                },
                **options,
            },
        )

    return run


def test_a_history_is_started_measured_and_published(installed: Command, tmp_path: Path) -> None:
    try:
        device.check()
    except HostError as error:
        pytest.skip(f"{NO_KVM}: {error}")
    history = tmp_path / "history"
    begun = installed("kickbench", "history", "init", "history")
    assert begun.returncode == 0, begun.stderr

    # One of the benchmarks, because all are made in the same way.
    run = installed("asv", "run", "--record-samples", "--bench", r"vm_stop\.", cwd=history)
    assert run.returncode == 0, run.stdout + run.stderr
    published = installed("asv", "publish", cwd=history)
    assert published.returncode == 0, published.stdout + published.stderr

    report = json.loads(installed("kickbench", "report", "--json", cwd=history).stdout)
    assert {row["scenario"] for row in report["rows"]} == {"idle", "blackhole", "paused"}
    assert (history / ".asv" / "html" / "index.html").exists()
    assert leftovers.find(tmp_path / "runtime").lines() == []


def test_the_guest_images_are_in_the_environment(installed: Command, environment: Path) -> None:
    code = "from bench_lib.settings import Settings; print(Settings.from_environment().images)"
    images = Path(installed("python", "-c", code).stdout.strip())
    assert images.is_relative_to(environment)
    assert (images / "manifest.json").is_file()


def test_outside_of_histories_records_are_in_the_users_folder(
    installed: Command, tmp_path: Path
) -> None:
    said = installed("kickbench", "report").stdout
    assert (
        f"There are no records yet in {tmp_path}/home/.local/share/kickbench/.asv/records.jsonl"
        in said
    )


def test_set_up_has_nothing_to_do_if_everything_is_installed(installed: Command) -> None:
    """On a host for all tests, it is."""
    done = installed("kickbench", "set-up")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "set-up: all programs are installed\n"


def test_every_command_that_the_doctor_recommends_can_be_run(
    installed: Command, tmp_path: Path
) -> None:
    """Every program is missing, so the doctor recommends many commands."""
    empty = {"PATH": str(tmp_path / "nothing"), "HOME": str(tmp_path / "home")}
    rows = json.loads(installed("kickbench", "doctor", "--json", env=empty).stdout)["rows"]
    fixes = {row["name"]: row["fix"] for row in rows if row["fix"]}
    assert {"qemu", "network tools", "gdb"} <= fixes.keys()
    builtins = {"echo", "export", "unset"}
    for name, fix in fixes.items():
        program = fix.split()[0]
        assert program in builtins or shutil.which(program, path=SYSTEM_PATH), (name, fix)
