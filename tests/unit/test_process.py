# SPDX-License-Identifier: BSD-3-Clause
"""How child processes start and end. Those that SIGKILL does not end are in tests/host."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench_lib import ownership, process
from bench_lib.deadline import Deadline
from bench_lib.errors import NotStarted, ProgramMissing, ToolFailed
from bench_lib.ownership import MARK
from bench_lib.process import Child
from tests.conftest import CHECKOUT
from tests.traced import traced

ENV = {MARK: "8123456789ab"}
PATIENCE_S = 60


def _gone(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], PATIENCE_S)[0])


def _run(tmp_path: Path, *argv: str, **options: Any) -> tuple[int, str]:
    """Run a program, and return its exit status and what it wrote."""
    log = tmp_path / "log"
    with process.started(argv, env=ENV, output=log, **options) as child:
        assert child.reaped_within(PATIENCE_S)
        status = child.exit_status
    assert status is not None
    return status, log.read_text()


def test_a_program_starts_in_a_session_of_its_own_with_its_output_in_the_log(
    tmp_path: Path,
) -> None:
    script = "echo out; echo err >&2; cut -d ' ' -f 6 /proc/$$/stat; echo $$; exit 3"
    status, text = _run(tmp_path, "sh", "-c", script)
    out, err, session, pid = text.split()
    assert (status, out, err) == (3, "out", "err")
    assert session == pid


def test_arguments_arrive_as_they_are(tmp_path: Path) -> None:
    arguments = ["", "a b", "-n", "$HOME", "'\"\\", "--", "*"]
    script = "import sys; print(sys.argv[1:])"
    _, text = _run(tmp_path, sys.executable, "-c", script, *arguments)
    assert text == f"{arguments}\n"


def test_a_process_and_its_children_have_the_mark_of_their_run(tmp_path: Path) -> None:
    with process.started(
        ["sh", "-c", "sleep 1000 & echo $!; wait"], env=ENV, output=tmp_path / "log"
    ) as child:
        while not (said := (tmp_path / "log").read_text()).endswith("\n"):
            assert child.exit_status is None
        for pid in (child.pid, int(said)):
            assert ownership.run_of_process(pid) == ENV[MARK]
    assert ownership.run_of_process(os.getpid()) is None


def test_descriptors_are_passed_on_and_no_others(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "wb"):
        _, text = _run(tmp_path, "sh", "-c", "ls /proc/$$/fd", pass_fds=(theirs,))
    assert {int(word) for word in text.split()} == {0, 1, 2, theirs}


def test_a_terminal_controls_the_session_and_turns_ctrl_c_into_sigint(tmp_path: Path) -> None:
    keyboard, screen = pty.openpty()
    try:
        with process.started(
            ["sleep", "1000"], env=ENV, output=tmp_path / "log", terminal_fd=screen
        ) as child:
            os.write(keyboard, b"\x03")
            assert child.reaped_within(PATIENCE_S)
            assert child.exit_status == -signal.SIGINT
    finally:
        os.close(keyboard)
        os.close(screen)


def test_a_terminal_of_another_session_is_refused_in_one_sentence(tmp_path: Path) -> None:
    keyboard, screen = pty.openpty()
    try:
        with (
            process.started(
                ["sleep", "1000"], env=ENV, output=tmp_path / "log", terminal_fd=screen
            ),
            pytest.raises(NotStarted, match=r"sleep cannot be started: .*/dev/tty"),
        ):
            _run(tmp_path, "sleep", "1000", terminal_fd=screen)
    finally:
        os.close(keyboard)
        os.close(screen)


def test_a_file_that_is_not_a_network_namespace_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with (
        (tmp_path / "file").open("w") as file,
        pytest.raises(NotStarted, match=r"true cannot be started: .+ \(setns\)\."),
    ):
        _run(tmp_path, "true", netns_fd=file.fileno())


def test_a_mark_that_cannot_be_set_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(NotStarted, match="true cannot be started: "),
        process.started(["true"], env={MARK: "no id"}, output=tmp_path / "log"),
    ):
        pass


def test_a_missing_setpriv_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "program").write_text("#!/bin/sh\n")
    (tmp_path / "program").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramMissing, match="setpriv is not installed"):
        _run(tmp_path, "program")


@pytest.mark.parametrize(
    "mode, sentence", [(None, "is not installed"), (0o644, "is not executable")]
)
def test_a_program_that_cannot_be_executed(tmp_path: Path, mode: int | None, sentence: str) -> None:
    program = tmp_path / "program"
    if mode is not None:
        program.write_text("#!/bin/sh\n")
        program.chmod(mode)
    with pytest.raises(ProgramMissing, match=sentence):
        _run(tmp_path, str(program))


PARENT = """
import os, signal, sys
from bench_lib import process
with process.started(["sleep", "1000"], env={env}, output=os.open("/dev/null", os.O_RDWR)) as child:
    print(child.pid, flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_dies_with_its_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT.format(env=ENV)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.stdin.write(b"\n")
            parent.stdin.close()
            assert _gone(pidfd)
        finally:
            os.close(pidfd)


def test_nothing_starts_if_the_parent_died_before_the_death_signal_was_set(tmp_path: Path) -> None:
    """The parent has another pid than expected, as after the child was reparented."""
    mark = tmp_path / "started"
    dead = subprocess.Popen(["true"])
    dead.wait()
    done = subprocess.run(
        ["sh", "-c", process.START, "sh", str(dead.pid), "", "touch", str(mark)],
        env={**os.environ, **ENV},
        check=False,
        capture_output=True,
    )
    assert done.returncode == 1
    assert process.STARTS not in done.stderr
    assert not mark.exists()


def test_no_code_of_ours_runs_between_fork_and_exec(tmp_path: Path) -> None:
    """If there are other threads, it could wait for a lock of one of them for ever."""
    forks: list[str] = []
    os.register_at_fork(
        after_in_child=lambda: forks.append("child"), before=lambda: forks.append("before")
    )
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        assert _run(tmp_path, "true")[0] == 0
        process.run_tool(["true"])
    finally:
        done.set()
        other.join()
    assert not forks


def test_a_tool_that_fails_is_reported_with_its_output() -> None:
    with pytest.raises(ToolFailed, match=r"`sh -c echo no >&2; exit 3` failed \(3\): no"):
        process.run_tool(["sh", "-c", "echo no >&2; exit 3"])
    assert process.run_tool(["cat"], stdin="täxt") == "täxt"


def test_a_tool_that_does_not_end_is_ended() -> None:
    with pytest.raises(ToolFailed, match="did not end within"):
        process.run_tool(["sleep", "1000"], deadline=Deadline.after(0.01))


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    """A process that cannot be reaped, because its tracer does not wait for it."""
    monkeypatch.setattr("bench_lib.process.child.DEATH_LIMIT_S", 0.1)
    with traced("time.sleep(1000)") as target:
        yield Child(target)


def test_a_process_that_cannot_be_reaped_is_reported_and_not_waited_for(
    held: Child, caplog: pytest.LogCaptureFixture
) -> None:
    held.signal(signal.SIGKILL)
    assert held.reaped_within(0.1) is None
    assert asyncio.run(held.reaped(Deadline.after(0.2))) is None
    held.end()
    assert held.survivor is not None
    sentence = f"process {held.pid} (python3) survives SIGKILL; it is dead, but has not been reaped"
    assert str(held.survivor).startswith(sentence.replace("python3", held.survivor.name))
    assert process.survivors() == [held.survivor]
    assert caplog.messages == [f"Left to `kickbench clean`: {held.survivor}."]


def test_a_process_that_ends_is_not_a_survivor(tmp_path: Path) -> None:
    with process.started(["sleep", "1000"], env=ENV, output=tmp_path / "log") as child:
        assert process.lives(child.pid)
    assert child.survivor is None
    assert not process.lives(child.pid)
    assert child.pid not in {each.pid for each in process.survivors()}


def test_no_work_starts_with_a_process_that_has_ended(tmp_path: Path) -> None:
    begun = []

    async def work() -> None:
        begun.append(True)

    with process.started(["sleep", "1000"], env=ENV, output=tmp_path / "log") as child:
        child.signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(process.Ended) as ended:
            asyncio.run(child.during(work()))
    assert ended.value.status == -signal.SIGKILL
    assert not begun


def test_all_parallel_tools_have_ended_when_one_has_failed(tmp_path: Path) -> None:
    done = tmp_path / "done"
    late = f"while [ ! -e {tmp_path}/go ]; do :; done; touch {done}"
    first = f"touch {tmp_path}/go; echo no >&2; exit 3"
    with pytest.raises(ToolFailed, match=r"failed \(3\): no"):
        process.run_tools([["sh", "-c", first], ["sh", "-c", late]], stdin=["", ""])
    assert done.exists()
    assert process.run_tools([["cat"], ["tr", "a", "b"]], stdin=["a", "ca"]) == ["a", "cb"]
