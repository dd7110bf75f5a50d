"""Fixtures of tests that start real guests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench_lib import ownership
from bench_lib.network import link
from bench_lib.ownership import Run
from bench_lib.settings import CHECKOUT
from bench_lib.trial import leftovers

KICKBENCH = Path(sys.executable).parent / "kickbench"

Command = Callable[..., subprocess.CompletedProcess[str]]


def all_that_is_left(runtime: Path) -> list[str]:
    """What there is of any run with this runtime folder, living ones included."""
    found = leftovers.find(runtime).lines() if runtime.exists() else []
    named = [name for name in link.existing() if ownership.run_of_name(name)]
    # Without the code that is tested: by the name that every guest has.
    guests = subprocess.run(["pgrep", "-f", "guest=kickbench-"], capture_output=True, text=True)
    return [*found, *named, *guests.stdout.split()]


@pytest.fixture
def clean_host(history: Path, runtime: Path) -> Iterator[Path]:
    """A history and a runtime folder of the test's own; afterwards nothing may be left."""
    yield history
    assert not all_that_is_left(runtime)


@pytest.fixture
def kickbench(clean_host: Path) -> Command:
    """Runs the command line as a user does."""

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            [KICKBENCH, *arguments],
            **{"capture_output": True, "text": True, "timeout": 100, "check": False, **options},
        )

    return run


@pytest.fixture
def run(clean_host: Path, runtime: Path) -> Iterator[Run]:
    """A run, for what is to be named after one."""
    with ownership.measuring(runtime) as owner:
        yield owner


def run_driver(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts beside this file, which change the code under test."""
    path = Path(__file__).with_name(script)
    return subprocess.run(
        [sys.executable, path, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
