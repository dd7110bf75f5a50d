# SPDX-License-Identifier: BSD-3-Clause
"""Kernels and commands for tests that boot labs. These need no KVM, so they are never skipped."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench_lib.settings import Settings
from tests.host.conftest import GUEST, KICKBENCH, Command, processes, runner

HANG_S = 1500
"""Seconds that a test waits for a command that boots labs: only a hang takes as long."""

# The tests use the cache of the user who runs them, so that kernels are fetched once.
CACHE = Settings.from_environment().cache


@pytest.fixture(scope="session", autouse=True)
def kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fetch the newest kernel without the flag and the newest with it."""
    done = subprocess.run(
        [KICKBENCH, "kernels", "fetch", "debian/6.1", "debian/6.12"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KICKBENCH_HISTORY": str(tmp_path_factory.mktemp("history"))},
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def clean_host(history: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A history and a runtime folder of this test alone; no lab may be left at its end."""
    monkeypatch.setenv("KICKBENCH_CACHE", str(CACHE))
    # Emulated, a boot takes 4 s and a staging 3 s, and several times as long beside other work.
    monkeypatch.setenv("KICKBENCH_LAB_BOOT", "600")
    monkeypatch.setenv("KICKBENCH_STAGING", "90")
    yield history
    assert not processes(runtime, GUEST), "a lab is left"


@pytest.fixture
def kickbench(clean_host: Path) -> Command:
    """Runs the command line as a user does."""

    return runner(KICKBENCH, HANG_S)
