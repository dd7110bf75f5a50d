# SPDX-License-Identifier: BSD-3-Clause
"""How the agent runs commands; here on this host, and with a pipe for its port."""

from __future__ import annotations

import base64
import os
import select
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest

from bench_lib.lab import agent

LIMIT_S = 60
"""Only an agent that waits for what does not come takes so long."""


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, IO[bytes]]]:
    """The agent's end, and what the host reads."""
    # The agent changes both, and is the only one in its process.
    monkeypatch.chdir("/")
    monkeypatch.setattr(os, "environb", dict(os.environb))
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as host:
        yield writing, host
        os.close(writing)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """What a command waits for until the test writes to it."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def _started(port: int, script: str, cwd: Path) -> Future[int]:
    environ = [f"{name}={value}" for name, value in os.environ.items()]
    strings = [str(cwd), "3", "sh", "-c", script, *environ]
    pool = ThreadPoolExecutor(1)
    running = pool.submit(agent.run, port, [os.fsencode(each) for each in strings])
    pool.shutdown(wait=False)
    return running


def test_a_command_that_closes_its_output_is_seen_to_be_alive(
    port: tuple[int, IO[bytes]], fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host gives up a lab that is silent for a minute."""
    monkeypatch.setattr(agent, "ALIVE_S", 0.01)
    ours, host = port
    running = _started(ours, "exec >&- 2>&-; read line <fifo; exit 3", fifo.parent)
    fd = os.open(fifo, os.O_WRONLY)  # comes back once the command reads, so its output is closed
    try:
        assert select.select([host], [], [], LIMIT_S)[0]
        assert host.readline() == b"alive \n"
    finally:
        os.write(fd, b"go on\n")
        os.close(fd)
    assert running.result(LIMIT_S) == 3


def test_a_command_ends_though_something_that_it_started_keeps_its_output(
    port: tuple[int, IO[bytes]], fifo: Path
) -> None:
    ours, host = port
    running = _started(ours, "cat fifo & echo its last word; exit 4", fifo.parent)
    fd = os.open(fifo, os.O_WRONLY)
    try:
        assert running.result(LIMIT_S) == 4
    finally:
        os.close(fd)
    assert host.readline() == b"out aXRzIGxhc3Qgd29yZAo=\n"


def test_all_that_a_command_wrote_before_its_end_is_sent(
    port: tuple[int, IO[bytes]], tmp_path: Path
) -> None:
    ours, host = port
    with ThreadPoolExecutor(1) as pool:
        lines = pool.submit(lambda: list(iter(host.readline, b"end\n")))
        script = "head -c 100000 /dev/zero; head -c 60000 /dev/zero >&2"
        assert _started(ours, script, tmp_path).result(LIMIT_S) == 0
        os.write(ours, b"end\n")
        messages = [line.split(b" ") for line in lines.result(LIMIT_S)]
    for stream, size in ((b"out", 100000), (b"err", 60000)):
        data = b"".join(base64.b64decode(body) for word, body in messages if word == stream)
        assert data == bytes(size)


def test_a_command_that_cannot_be_started_says_why(
    port: tuple[int, IO[bytes]], tmp_path: Path
) -> None:
    ours, host = port
    status = agent.run(ours, [os.fsencode(tmp_path), b"1", b"no-such-program", b"PATH=/bin"])
    assert status == 127
    word, body = host.readline().split(b" ")
    assert word == b"err"
    assert (
        base64.b64decode(body) == b"no-such-program cannot be started: No such file or directory\n"
    )


def test_a_folder_that_the_lab_does_not_have_is_named(
    port: tuple[int, IO[bytes]], tmp_path: Path
) -> None:
    """A lab has no /run of this host's."""
    ours, host = port
    nowhere = tmp_path / "nowhere"
    assert agent.run(ours, [os.fsencode(nowhere), b"1", b"true"]) == 127
    said = base64.b64decode(host.readline().split(b" ")[1]).decode()
    assert said.startswith(f"true cannot be started: the lab cannot go to {nowhere} (No such")


def test_a_command_dies_of_a_pipe_that_nobody_reads(
    port: tuple[int, IO[bytes]], tmp_path: Path
) -> None:
    """Python ignores SIGPIPE, and what it starts must not."""
    ours, _ = port
    assert _started(ours, "kill -PIPE $$", tmp_path).result(LIMIT_S) == -signal.SIGPIPE


def test_what_a_command_leaves_behind_is_reaped(
    port: tuple[int, IO[bytes]], tmp_path: Path
) -> None:
    orphan = os.posix_spawnp("true", ["true"], dict(os.environ))
    assert os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT) is not None
    ours, _ = port
    assert _started(ours, "exit 0", tmp_path).result(LIMIT_S) == 0
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOHANG)
