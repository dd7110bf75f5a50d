# SPDX-License-Identifier: BSD-3-Clause
"""Processes that SIGKILL does not end, or whose memory lock is held, do not hang kickbench."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench_lib import cli, ownership, process, record
from bench_lib.deadline import Deadline
from bench_lib.errors import LeftoversRemain
from bench_lib.network import link
from bench_lib.process import Child
from bench_lib.record import HUNG, Outcome, WaitsFor
from bench_lib.settings import CHECKOUT
from bench_lib.trial import leftovers
from bench_lib.trial.requests.monitors import Stop
from tests.conftest import HANG_S
from tests.host.conftest import Command
from tests.host.fuse import FuseServer, locked, served, until_one_waits_for

OPENS = """
import os, sys, threading
threading.Thread(target=os.open, args=[sys.argv[1], os.O_RDONLY]).start()
"""
"""The second thread opens a file, and so outlives the first."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FuseServer]:
    with served(tmp_path / "mounted") as made:
        yield made


def _start(stack: ExitStack, run: ownership.Run, output: int | Path, *argv: str) -> Child:
    env = {**run.mark, "PYTHONPATH": str(CHECKOUT)}
    return stack.enter_context(process.started(argv, env=env, output=output))


def _clean() -> Result:
    return CliRunner().invoke(cli.main, ["clean"])


def test_clean_reports_a_process_that_cannot_be_killed_and_ends_the_rest(
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
        # It is found again, alone.
        assert leftovers.find(runtime).lines() == [f"process {stuck.pid} ({name})"]
        server.answer()
        assert stuck.reaped_within(HANG_S)
        assert _clean().stdout == "Nothing is left of any run.\n"


def test_a_run_reports_a_process_that_cannot_be_killed_and_leaves_it_to_clean(
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


def test_a_qemu_that_sleeps_where_no_signal_ends_it_hangs_its_request_and_nothing_else(
    clean_host: Path,
    runtime: Path,
    server: FuseServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Instead of the first `stop`, QEMU's main loop reads a file that does not answer."""
    monkeypatch.setattr(process, "DEATH_LIMIT_S", 0.5)
    monkeypatch.setattr(leftovers, "LAST_BREATH_S", 0.5)
    server.hold()
    pids: list[int] = []
    send = Stop.send

    async def read_and_send(self: Stop) -> None:
        pids.append(self.guest.child.pid)
        if len(pids) > 1:
            await send(self)
            return
        file = {"qom-type": "secret", "id": "secret", "file": str(server.file)}
        self.guest.requests.send("object-add", file)
        await asyncio.to_thread(server.has_kept)

    monkeypatch.setattr(Stop, "send", read_and_send)
    argv = ["trial", "--scenario", "idle", "--request", "stop", "-n", "2", "--deadline", "0.5"]
    done = CliRunner().invoke(cli.main, argv)
    survivor = f"process {pids[0]} (qemu-system-x86) survives SIGKILL; it sleeps in "
    survivor += "request_wait_answer"
    assert f"{survivor}. Free what it waits for, then run `kickbench clean`." in done.stderr
    assert done.exit_code == LeftoversRemain.exit_status
    ((hung, after), damaged) = record.read(Path(".asv/records.jsonl"))
    assert not damaged
    assert hung.outcome in HUNG
    assert WaitsFor.FUSE in {thread.waits_for for thread in hung.evidence.after}
    assert hung.survivors == (survivor,)
    assert (after.outcome, after.survivors) == (Outcome.RETURNED, ())
    assert f"This could not be ended: {survivor}." in _clean().stderr
    server.answer()
    deadline = Deadline.after(HANG_S)
    while process.survivors():
        assert not deadline.passed
    assert _clean().stdout == "Nothing is left of any run.\n"


def test_clean_does_not_wait_for_the_memory_lock_of_a_process(
    clean_host: Path, server: FuseServer, kickbench: Command
) -> None:
    """The process belongs to no run, but `clean` must look at it to know that."""
    with locked(server) as child, _who_waits_for_the_lock_of(child.pid) as waiting:
        assert kickbench("clean").stdout == "Nothing is left of any run.\n"
        assert waiting.poll() is None


def test_clean_reports_a_process_whose_memory_lock_is_held(
    clean_host: Path, runtime: Path, server: FuseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "LAST_BREATH_S", 0.5)
    with ownership.measuring(runtime) as dead:
        marked = ("sh", "-c", f'ulimit -m {int(dead.id, 16)} && exec "$@"', "sh")
    with locked(server, marked) as child, _who_waits_for_the_lock_of(child.pid):
        done = _clean()
        assert done.exit_code == LeftoversRemain.exit_status
        assert f"This could not be ended: process {child.pid} (python" in done.stderr
    assert _clean().stdout == "Nothing is left of any run.\n"


@contextmanager
def _who_waits_for_the_lock_of(pid: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that reads another one's command line, for which it needs the lock."""
    with subprocess.Popen(["cat", f"/proc/{pid}/cmdline"], stdout=subprocess.DEVNULL) as reader:
        until_one_waits_for(WaitsFor.LOCK, reader.pid)
        try:
            yield reader
        finally:
            reader.kill()
