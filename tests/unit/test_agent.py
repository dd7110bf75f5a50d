# SPDX-License-Identifier: BSD-3-Clause
"""How the lab's agent runs commands: on this host, with a pipe or a socket as its port."""

from __future__ import annotations

import base64
import os
import select
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest

from bench_lib.lab import agent

LIMIT_S = 60
"""Seconds that a test waits for the agent; only a hang takes as long."""


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, IO[bytes]]]:
    """The agent's end of its port, and the file that the host reads."""
    # The agent changes both, because it is alone in its process.
    monkeypatch.chdir("/")
    monkeypatch.setattr(os, "environb", dict(os.environb))
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as host:
        yield writing, host
        os.close(writing)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A FIFO that a command reads, so that it waits until the test writes."""
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


def test_a_command_that_has_closed_its_output_is_reported_alive(
    port: tuple[int, IO[bytes]], fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host gives up a lab that sends nothing for a minute."""
    monkeypatch.setattr(agent, "ALIVE_S", 0.01)
    ours, host = port
    running = _started(ours, "exec >&- 2>&-; read line <fifo; exit 3", fifo.parent)
    fd = os.open(fifo, os.O_WRONLY)  # returns once the command reads, so its output is closed
    try:
        assert select.select([host], [], [], LIMIT_S)[0]
        assert host.readline() == b"alive \n"
    finally:
        os.write(fd, b"go on\n")
        os.close(fd)
    assert running.result(LIMIT_S) == 3


def test_a_command_ends_though_a_process_that_it_started_keeps_its_output(
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


def test_a_command_that_cannot_be_started_is_reported_with_the_reason(
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
    """A lab does not have this host's /run."""
    ours, host = port
    nowhere = tmp_path / "nowhere"
    assert agent.run(ours, [os.fsencode(nowhere), b"1", b"true"]) == 127
    said = base64.b64decode(host.readline().split(b" ")[1]).decode()
    assert said.startswith(f"true cannot be started: the lab cannot go to {nowhere} (No such")


def test_a_command_dies_of_sigpipe(port: tuple[int, IO[bytes]], tmp_path: Path) -> None:
    """Python ignores SIGPIPE, but the programs that it starts must not."""
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


class _Host:
    """The host's end of an agent that serves in a thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.end, theirs = socket.socketpair()
        self._agents = theirs
        self._lines = self.end.makefile("rb")
        monkeypatch.setattr(agent, "find_port", theirs.fileno)
        monkeypatch.setattr(agent, "accelerator", lambda: "tcg")
        monkeypatch.setattr(agent, "missing", list)
        pool = ThreadPoolExecutor(1)
        self._serving = pool.submit(agent.main)
        pool.shutdown(wait=False)

    def message(self) -> tuple[bytes, list[bytes]]:
        """The next message that is not `alive`: its word and its strings."""
        while (line := self._lines.readline()) == b"alive \n":
            pass
        word, _, body = line.removesuffix(b"\n").partition(b" ")
        return word, base64.b64decode(body, validate=True).split(b"\0")

    def hangs_up(self) -> None:
        self._lines.close()
        self.end.close()

    def served(self) -> None:
        """Wait until the agent has ended, and raise the error that it ended with."""
        self._serving.result(LIMIT_S)

    def close(self) -> None:
        self.hangs_up()
        self._serving.exception(LIMIT_S)
        self._agents.close()


@pytest.fixture
def host(port: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Host]:
    made = _Host(monkeypatch)
    try:
        yield made
    finally:
        made.close()


def _request(cwd: Path, script: str, **more: str) -> bytes:
    environ = [f"{name}={value}" for name, value in {"PATH": os.environ["PATH"], **more}.items()]
    strings = [str(cwd), "3", "sh", "-c", script, *environ]
    body = b"".join(os.fsencode(each) + b"\0" for each in strings)
    return b"run " + base64.b64encode(body) + b"\n"


def test_the_first_message_of_an_agent_names_what_it_runs_on(host: _Host) -> None:
    word, strings = host.message()
    uname = os.uname()
    assert word == b"ready"
    assert strings == [uname.release.encode(), uname.version.encode(), b"tcg", b""]


def test_commands_are_run_in_turn_however_their_requests_are_cut(
    host: _Host, tmp_path: Path
) -> None:
    host.message()
    requests = _request(tmp_path, "exit 5") + _request(tmp_path, "kill -9 $$")
    for number in range(len(requests)):
        host.end.sendall(requests[number : number + 1])
    assert host.message() == (b"exit", [b"5", b""])
    assert host.message() == (b"exit", [b"-9", b""])
    host.end.sendall(requests)
    assert [host.message()[1][0], host.message()[1][0]] == [b"5", b"-9"]


@pytest.mark.parametrize("cut", [0, 1, len(b"run "), 20, -1])
def test_a_request_that_the_host_did_not_finish_is_not_run(
    host: _Host, tmp_path: Path, cut: int
) -> None:
    host.message()
    host.end.sendall(_request(tmp_path, "touch witness")[:cut])
    host.hangs_up()
    host.served()
    assert not (tmp_path / "witness").exists()


def test_an_agent_whose_host_is_gone_ends_at_its_next_message(host: _Host, fifo: Path) -> None:
    host.message()
    host.end.sendall(_request(fifo.parent, "read line <fifo; echo word"))
    fd = os.open(fifo, os.O_WRONLY)  # returns once the command runs
    host.hangs_up()
    os.write(fd, b"go on\n")
    os.close(fd)
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        host.served()


@pytest.mark.parametrize(
    "sent",
    [
        b"\n",
        b"run\n",
        b"run !\n",
        b"run YQ\n",
        b"\0\xff\n",
        b"run " + base64.b64encode(b"/\0") + b"\n",
        b"run " + base64.b64encode(b"/\0two\0sh\0") + b"\n",
    ],
    ids=[
        "empty", "no body", "no base64", "half a group", "binary", "no count", "no number",
    ],
)  # fmt: skip
def test_an_agent_ends_at_garbage(host: _Host, sent: bytes) -> None:
    """The kernel panics then, and the host reports a lab that was lost."""
    host.message()
    host.end.sendall(sent)
    with pytest.raises(ValueError, match=r"unpack|padding|invalid literal"):
        host.served()


def test_a_request_may_be_longer_than_what_the_agent_reads_at_once(
    host: _Host, tmp_path: Path
) -> None:
    host.message()
    long = "x" * 100_000
    host.end.sendall(_request(tmp_path, "printf %s ${#LONG} >&2", LONG=long))
    assert host.message() == (b"err", [b"100000"])
    assert host.message() == (b"exit", [b"0", b""])


def test_a_command_that_is_too_long_for_the_kernel_is_an_error_of_its_own(
    host: _Host, tmp_path: Path
) -> None:
    host.message()
    # MAX_ARG_STRLEN of Linux is 32 pages.
    host.end.sendall(_request(tmp_path, "exit 0", LONG="x" * (4 << 20)))
    assert host.message() == (b"err", [b"sh cannot be started: Argument list too long\n"])
    assert host.message() == (b"exit", [b"127", b""])
    host.end.sendall(_request(tmp_path, "exit 6"))
    assert host.message() == (b"exit", [b"6", b""])


def test_a_message_is_whole_though_the_port_takes_a_byte_at_a_time(
    port: tuple[int, IO[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, host = port
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:1]))
    agent.send(ours, "out", b"some bytes")
    assert host.readline() == b"out c29tZSBieXRlcw==\n"
