# SPDX-License-Identifier: BSD-3-Clause
"""What `tools/set-up` does with fakes of the programs that it asks and installs with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

TOOL = CHECKOUT / "tools" / "set-up"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """What the tool runs, without Python. The fake apt-get only leaves a file."""
    for name in ("sh", "cat", "dirname", "id", "sort"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    for name, script in {"apt-get": "touch ${0%/*}/called", "dpkg-query": "echo installed"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def _run(programs: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": str(programs)}
    )


def test_without_python_nothing_is_installed_for_the_doctor(programs: Path) -> None:
    done = _run(programs, str(TOOL), "--python")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("set-up: no Python 3.11 or later with venv was found; ")
    assert done.stderr.count("\n") == 1
    assert not (programs / "called").exists()


def test_programs_that_are_all_installed_are_reported(programs: Path) -> None:
    kickbench = str(Path(sys.executable).with_name("kickbench"))
    for command in ([str(TOOL), "--programs"], [kickbench, "set-up"]):
        done = _run(programs, *command)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "set-up: all programs are installed\n"
    assert not (programs / "called").exists()
