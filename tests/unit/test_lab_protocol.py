# SPDX-License-Identifier: BSD-3-Clause
"""The host's side of the protocol with a lab that dies or sends garbage at each message.

The lab is a fake QEMU, which plays a script on the descriptor of the agent.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bench_lib import ownership
from bench_lib.errors import LabLost
from bench_lib.kernel.ledger import describe
from bench_lib.kernel.store import Bootable
from bench_lib.lab import initramfs
from bench_lib.lab.vm import Lab, booted
from bench_lib.process import Child
from bench_lib.settings import Settings
from tests import make

KERNEL = Bootable(describe(make.KERNEL), "somewhere", Path("/nowhere"))

FAKE_QEMU = """\
#!{python} -IS
import base64, json, os, re, socket, sys
agent = socket.socket(fileno=int(re.search(r"id=agent,fd=([0-9]+)", " ".join(sys.argv))[1]))
accelerator = sys.argv[sys.argv.index("-accel") + 1]
with open({script!r}) as file:
    steps = json.load(file)
for what, *more in steps:
    if what == "send":
        text, count = more
        agent.sendall(text.replace("MANY", "A" * (2 << 20)).encode("latin-1")[:count])
    elif what == "ready":
        strings, count = more
        body = "".join(each + "\\0" for each in strings).replace("ACCELERATOR", accelerator)
        agent.sendall((b"ready " + base64.b64encode(body.encode()) + b"\\n")[:count])
    elif what == "read request":
        received = b""
        while not received.endswith(b"\\n"):
            received += agent.recv(65536)
    elif what == "read byte":
        agent.recv(1)
    elif what == "close console":
        os.close(1)
        os.close(2)
    elif what == "live on":
        while agent.recv(65536):
            pass
os._exit(3)
"""
"""Does the steps of the script in turn, and exits with status 3."""

UP = ["6.1.0", "#1 SMP", "ACCELERATOR"]
"""The strings of a good first message."""

Step = list[object]
Play = Callable[..., None]

READY: Step = ["ready", UP, None]
REQUEST: Step = ["read request"]
LIVE_ON: list[Step] = [["live on"]]
CLOSE_CONSOLE: Step = ["close console"]
"""The host waits for the end of a lost lab's console, so a lab that lives on closes it."""


def _send(text: str, count: int | None = None) -> Step:
    """:param count: how many bytes of the text are sent; all if it is None."""
    return ["send", text, count]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Sets the steps of the lab that the test boots."""
    script = tmp_path / "script"
    qemu = tmp_path / "bin" / "qemu-system-x86_64"
    qemu.parent.mkdir()
    qemu.write_text(FAKE_QEMU.format(python=sys.executable, script=str(script)))
    qemu.chmod(0o755)
    monkeypatch.setenv("PATH", str(qemu.parent), prepend=":")
    monkeypatch.setenv("KICKBENCH_LAB_MEMORY", "1")
    monkeypatch.setattr(
        initramfs,
        "files",
        lambda kernel, *, unpacked: initramfs.Files(Path("/nowhere"), Path("/nowhere")),
    )
    # A fake that lives on does not exit, so the host need not wait for that.
    monkeypatch.setattr(sys.modules[Child.__module__], "DEATH_S", 0.01)

    def prepare(*steps: Step) -> None:
        script.write_text(json.dumps(steps))

    return prepare


def _in_lab(runtime: Path, use: Callable[[Lab], Awaitable[None]]) -> None:
    """Boot the lab, and use it."""

    async def main() -> None:
        with ownership.measuring(runtime) as run:
            async with booted(run, KERNEL, Settings.from_environment(), run.folder) as lab:
                await use(lab)

    asyncio.run(main())


async def _no_use(lab: Lab) -> None:
    pytest.fail("the lab came up")


class Output:
    """What a command has written."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []

    def __call__(self, stream: str, data: bytes) -> None:
        self.got.append((stream, data))


async def _run(lab: Lab, output: Callable[[str, bytes], None]) -> int:
    return await lab.run(["true"], {"PATH": "/bin"}, Path("/"), output)


@pytest.mark.parametrize("count", [0, 3, len("ready "), 20, -1])
def test_a_lab_that_dies_before_its_first_message_is_whole_did_not_come_up(
    runtime: Path, play: Play, count: int
) -> None:
    play(["ready", UP, count])
    with pytest.raises(LabLost, match="did not come up: QEMU exited with status 3"):
        _in_lab(runtime, _no_use)


@pytest.mark.parametrize(
    "first",
    [
        _send("hello\n"),
        _send("\n"),
        _send("\0\0\0\0\n"),
        _send("\xff\xfe\n"),
        _send("ready !!!!\n"),
        _send("ready\n"),
        _send("alive \n"),
        _send("exit MAA=\n"),
        _send("MANY"),
        _send("ready MANY\n"),
        ["ready", UP[:2], None],
        ["ready", [], None],
        ["ready", [*UP, "veth"], None],
        ["ready", UP, -1],
    ],
    ids=[
        "no word of the agent", "an empty line", "NULs", "no text", "no base64", "no body",
        "another message", "an exit status", "no end of a line", "too long", "no accelerator",
        "no strings", "a module is missing", "half a message",
    ],
)  # fmt: skip
def test_a_lab_whose_first_message_is_not_a_good_one_did_not_come_up(
    runtime: Path, play: Play, monkeypatch: pytest.MonkeyPatch, first: Step
) -> None:
    half = first == ["ready", UP, -1]
    # Only the rest of half a message is waited for until the limit of the boot.
    monkeypatch.setenv("KICKBENCH_LAB_BOOT", "0.5" if half else "600")
    play(CLOSE_CONSOLE, first, *LIVE_ON)
    with pytest.raises(LabLost, match="did not come up"):
        _in_lab(runtime, _no_use)


MESSAGES = ["out b25l\n", "err dHdv\n", "alive \n", "out dGhyZWU=\n", "exit NAA=\n"]
"""What a lab sends while a command runs and ends with status 4."""

WRITTEN = [("out", b"one"), ("err", b"two"), ("out", b"three")]


@pytest.mark.parametrize("count", [0, 2, -1], ids=["before", "in", "at the end of"])
@pytest.mark.parametrize(
    "dies_at", range(len(MESSAGES)), ids=[each.split()[0] for each in MESSAGES]
)
def test_a_lab_that_dies_in_a_command_is_lost_and_every_later_use_raises_the_same_error(
    runtime: Path, play: Play, dies_at: int, count: int
) -> None:
    play(READY, REQUEST, *map(_send, MESSAGES[:dies_at]), _send(MESSAGES[dies_at], count))
    output = Output()

    async def use(lab: Lab) -> None:
        with pytest.raises(LabLost, match="lost while a command ran in it") as lost:
            await _run(lab, output)
        with pytest.raises(LabLost) as again:
            await _run(lab, output)
        assert again.value is lost.value

    _in_lab(runtime, use)
    # Only whole messages have been passed on.
    assert output.got == WRITTEN[: sum(not each.startswith("alive") for each in MESSAGES[:dies_at])]


def test_a_lab_that_dies_while_it_reads_a_command_is_lost(runtime: Path, play: Play) -> None:
    play(READY, ["read byte"])

    async def use(lab: Lab) -> None:
        with pytest.raises(LabLost, match="lost while a command ran in it"):
            await lab.run(["true"], {"LARGE": "x" * (4 << 20)}, Path("/"), Output())

    _in_lab(runtime, use)


def test_a_lab_that_dies_between_two_commands_has_given_the_first_status(
    runtime: Path, play: Play
) -> None:
    play(READY, REQUEST, *map(_send, MESSAGES))
    output = Output()

    async def use(lab: Lab) -> None:
        assert await _run(lab, output) == 4
        with pytest.raises(LabLost):
            await _run(lab, output)

    _in_lab(runtime, use)
    assert output.got == WRITTEN


@pytest.mark.parametrize(
    "garbage",
    [
        "hello\n",
        "\n",
        "run MAA=\n",
        "OUT b25l\n",
        "out\tb25l\n",
        "out b25l\r\n",
        "out b25\n",
        "out b25l b25l\n",
        "\0\0\0\0\n",
        "\xff\xfe\n",
        "MANY",
        "out MANY\n",
        "exit \n",
        "exit MA==\n",
        "exit c29vbgA=\n",
    ],
    ids=[
        "no word of the agent", "an empty line", "the host's own word", "capitals", "a tab",
        "CR LF", "half of a group of base64", "two bodies", "NULs", "no text", "no end of a line",
        "too long", "no status", "a status without its NUL", "a status that is no number",
    ],
)  # fmt: skip
def test_a_lab_that_sends_garbage_in_a_command_is_lost(
    runtime: Path, play: Play, garbage: str
) -> None:
    play(READY, CLOSE_CONSOLE, REQUEST, _send("out b25l\n"), _send(garbage), *LIVE_ON)
    output = Output()

    async def use(lab: Lab) -> None:
        with pytest.raises(LabLost, match="lost while a command ran in it"):
            await _run(lab, output)

    _in_lab(runtime, use)
    assert output.got == [("out", b"one")]


def test_a_lab_that_is_silent_is_lost(
    runtime: Path, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[Lab.__module__], "SILENCE_S", 0.01)
    play(READY, CLOSE_CONSOLE, *LIVE_ON)

    async def use(lab: Lab) -> None:
        with pytest.raises(LabLost, match="lost while a command ran in it"):
            await _run(lab, Output())

    _in_lab(runtime, use)


def test_a_message_may_be_as_long_as_the_agent_sends_them(runtime: Path, play: Play) -> None:
    """A chunk of 32768 bytes of output."""
    data = bytes(range(256)) * 128
    play(READY, REQUEST, _send(f"out {base64.b64encode(data).decode()}\n"), _send(MESSAGES[-1]))
    output = Output()

    async def use(lab: Lab) -> None:
        assert await _run(lab, output) == 4

    _in_lab(runtime, use)
    assert output.got == [("out", data)]


def test_after_an_error_of_the_caller_the_lab_runs_no_other_command(
    runtime: Path, play: Play
) -> None:
    """The next command would read what is left of the first one's output."""
    play(READY, REQUEST, *map(_send, MESSAGES))

    def broken(stream: str, data: bytes) -> None:
        raise ZeroDivisionError

    async def use(lab: Lab) -> None:
        with pytest.raises(ZeroDivisionError):
            await _run(lab, broken)
        output = Output()
        with pytest.raises(LabLost, match="not read to its end"):
            await _run(lab, output)
        assert output.got == []

    _in_lab(runtime, use)
