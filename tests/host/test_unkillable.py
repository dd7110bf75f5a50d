"""Processes that SIGKILL does not end, or that may not be looked into, hang nothing of ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench_lib import cli, ownership, process
from bench_lib.deadline import Deadline
from bench_lib.network import link
from bench_lib.process import Child
from bench_lib.settings import CHECKOUT
from bench_lib.trial import leftovers
from tests.host import fuse

OPENS = """
import os, sys, threading
threading.Thread(target=os.open, args=[sys.argv[1], os.O_RDONLY]).start()
"""
"""Its second thread opens a file, and so outlives its first."""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[fuse.File]:
    with fuse.mounted(tmp_path / "mounted") as made:
        yield made


def _start(stack: ExitStack, run: ownership.Run, output: int | Path, *argv: str) -> Child:
    env = {**run.mark, "PYTHONPATH": str(CHECKOUT)}
    return stack.enter_context(process.started(argv, env=env, output=output))


def _clean() -> Result:
    return CliRunner().invoke(cli.main, ["clean"])


def test_clean_reports_what_cannot_be_killed_and_ends_the_rest(
    clean_host: Path,
    runtime: Path,
    tmp_path: Path,
    file: fuse.File,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leftovers, "LAST_BREATH_S", 2.0)
    log = tmp_path / "log"
    with ExitStack() as processes, ExitStack() as namespaces:
        with ownership.measuring(runtime) as dead:
            ends = namespaces.enter_context(link.joined(dead, 1)).ends
            stuck = _start(processes, dead, log, sys.executable, "-c", OPENS, str(file.path))
            file.take(fuse.OPEN)
            sleeps = _start(processes, dead, log, "sleep", "1000")
        done = _clean()
        assert done.exit_code == 28
        assert done.stdout.splitlines() == [
            f"ended process {sleeps.pid} (sleep)",
            *sorted(f"ended network namespace {end.namespace}" for end in ends),
        ]
        name = process.name_of(stuck.pid)
        assert (
            f"This could not be ended: process {stuck.pid} ({name}) survives SIGKILL; "
            "it sleeps in request_wait_answer." in done.stderr
        )
        # It is found again, by itself.
        assert leftovers.find(runtime).lines() == [f"process {stuck.pid} ({name})"]
        file.abort()
        assert stuck.reaped_within(fuse.PATIENCE_S)
        assert _clean().stdout == "Nothing is left of any run.\n"


def test_a_run_leaves_what_cannot_be_killed_to_clean_and_says_so(
    clean_host: Path,
    runtime: Path,
    tmp_path: Path,
    file: fuse.File,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(process, "DEATH_LIMIT_S", 0.5)
    with ownership.measuring(runtime) as run, ExitStack() as stack:
        argv = [sys.executable, "-c", OPENS, str(file.path)]
        stuck = _start(stack, run, tmp_path / "log", *argv)
        file.take(fuse.OPEN)
    assert stuck.survivor is not None
    assert stuck.survivor.wchan == "request_wait_answer"
    assert process.survivors() == [stuck.survivor]
    assert caplog.messages == [f"Left to `kickbench clean`: {stuck.survivor}."]
    assert leftovers.find(runtime).lines() == [f"process {stuck.pid} ({stuck.survivor.name})"]
    file.abort()
    deadline = Deadline.after(fuse.PATIENCE_S)
    while process.survivors():
        assert not deadline.passed
