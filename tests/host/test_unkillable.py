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
from tests.conftest import HANG_S
from tests.host.fuse import FuseServer, served

OPENS = """
import os, sys, threading
threading.Thread(target=os.open, args=[sys.argv[1], os.O_RDONLY]).start()
"""
"""Its second thread opens a file, and so outlives its first."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FuseServer]:
    with served(tmp_path / "mounted") as made:
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
    server: FuseServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leftovers, "LAST_BREATH_S", 2.0)
    log = tmp_path / "log"
    server.hold()
    with ExitStack() as processes, ExitStack() as namespaces:
        with ownership.measuring(runtime) as dead:
            ends = namespaces.enter_context(link.joined(dead, 1)).ends
            stuck = _start(processes, dead, log, sys.executable, "-c", OPENS, str(server.file))
            server.has_kept()
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
        server.answer()
        assert stuck.reaped_within(HANG_S)
        assert _clean().stdout == "Nothing is left of any run.\n"


def test_a_run_leaves_what_cannot_be_killed_to_clean_and_says_so(
    clean_host: Path,
    runtime: Path,
    tmp_path: Path,
    server: FuseServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(process, "DEATH_LIMIT_S", 0.5)
    server.hold()
    with ownership.measuring(runtime) as run, ExitStack() as stack:
        argv = [sys.executable, "-c", OPENS, str(server.file)]
        stuck = _start(stack, run, tmp_path / "log", *argv)
        server.has_kept()
    assert stuck.survivor is not None
    assert stuck.survivor.wchan == "request_wait_answer"
    assert process.survivors() == [stuck.survivor]
    assert caplog.messages == [f"Left to `kickbench clean`: {stuck.survivor}."]
    assert leftovers.find(runtime).lines() == [f"process {stuck.pid} ({stuck.survivor.name})"]
    server.answer()
    deadline = Deadline.after(HANG_S)
    while process.survivors():
        assert not deadline.passed
