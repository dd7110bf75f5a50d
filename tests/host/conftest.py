# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of tests that start real guests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench_lib import ownership
from bench_lib.ownership import Run
from bench_lib.settings import CHECKOUT
from bench_lib.trial import leftovers
from tests.conftest import HANG_S

KICKBENCH = Path(sys.executable).parent / "kickbench"

Command = Callable[..., subprocess.CompletedProcess[str]]


GUEST = "qemu-system-x86"
WORKER = "python"
"""The names of guests and of the probe's workers in /proc/PID/comm, which has at most 15 bytes."""


def processes(runtime: Path, *names: str) -> list[int]:
    """The processes with these names that a test with this runtime folder has started.

    They are found without the code under test: by their working directory and their output, which
    are in the test's folder. Other runs on this host have other folders. Reading these links takes
    no lock of the process, unlike reading its command line and environment.
    """
    ours = runtime.parent
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text().strip() in names and any(
                (folder / link).readlink().is_relative_to(ours) for link in ("cwd", "fd/1")
            ):
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return found


def all_that_is_left(runtime: Path) -> list[str]:
    """Everything that runs with this runtime folder left, including living processes."""
    found = leftovers.find(runtime).lines() if runtime.exists() else []
    return [
        *found,
        *(f"process {pid}, which may be alive" for pid in processes(runtime, GUEST, WORKER)),
    ]


@contextmanager
def more_huge_pages(count: int) -> Iterator[None]:
    """Reserve `count` more huge pages, and free them at the end."""
    reserved = Path("/proc/sys/vm/nr_hugepages")
    before = int(reserved.read_text())
    reserved.write_text(str(before + count))
    got = int(reserved.read_text()) - before
    try:
        assert got == count, f"this machine has memory for {got} more huge pages, not for {count}"
        yield
    finally:
        reserved.write_text(str(int(reserved.read_text()) - got))


@pytest.fixture
def clean_host(history: Path, runtime: Path) -> Iterator[Path]:
    """A history and a runtime folder of this test alone; nothing may be left at its end."""
    yield history
    assert not all_that_is_left(runtime)


def runner(program: Path, timeout_s: float = HANG_S) -> Command:
    """A function that runs `program` with the arguments that it is given."""

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            [program, *arguments],
            **{
                "capture_output": True, "text": True, "timeout": timeout_s, "check": False,
                **options,
            },
        )  # fmt: skip

    return run


@pytest.fixture
def kickbench(clean_host: Path) -> Command:
    """Runs the command line as a user does."""
    return runner(KICKBENCH)


@pytest.fixture
def run(clean_host: Path, runtime: Path) -> Iterator[Run]:
    """A run, for tests that start things in its name."""
    with ownership.measuring(runtime) as owner:
        yield owner


def run_driver(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script beside this file that changes the code under test."""
    path = Path(__file__).with_name(script)
    return subprocess.run(
        [sys.executable, path, *arguments],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
