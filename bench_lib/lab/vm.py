# SPDX-License-Identifier: BSD-3-Clause
"""Boot a kernel in a lab, and run commands there."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench_lib import process
from bench_lib.deadline import Deadline
from bench_lib.errors import DeadlinePassed, LabLost, LabUnavailable
from bench_lib.kernel.store import Bootable
from bench_lib.lab import agent, qemu
from bench_lib.ownership import Run
from bench_lib.settings import CHECKOUT, Settings, import_path

SILENCE_S = 60.0
"""How long a lab may send no message. The agent sends `alive` every five seconds."""

CONSOLE_LINES = 300
"""Lines of the console that are kept to show why a lab died. A panic alone prints fifty."""

CONSOLE_LINE = 1000
"""Bytes that are kept of each line of the console."""

CONSOLE_END_S = 2.0
"""How long to wait for the last output of the console after a lab has died."""

WORDS = {each.encode(): each for each in ("ready", "out", "err", "exit", "alive")}
"""The first words of the agent's messages."""

READY_STRINGS = 3
"""The least number of strings in a lab's first message; see `agent`."""

Output = Callable[[str, bytes], None]
"""A function that takes "out" or "err", and the bytes that a command has written there."""


@dataclass(frozen=True)
class Facts:
    """What a lab reported of itself when it was up.

    :ivar accelerator: `kvm` or `tcg`, as the agent sees it in the lab.
    :ivar boot_s: seconds from QEMU's start until the lab could run a command.
    :ivar failed: for each earlier lab that did not come up, the reason.
    """

    release: str
    version: str
    accelerator: str
    boot_s: float
    failed: tuple[str, ...] = ()

    def __str__(self) -> str:
        up = f"{self.release} runs on {self.accelerator}, up after {self.boot_s:.1f} s"
        return "; before that: ".join([up, *self.failed])


class _Console:
    """The last lines that QEMU and the lab's kernel have written to a pipe."""

    def __init__(self, fd: int) -> None:
        """:param fd: the pipe's reading end, which this object closes."""
        self._lines: deque[str] = deque(maxlen=CONSOLE_LINES)
        self._following = asyncio.create_task(self._follow(fd))

    def close(self) -> None:
        self._following.cancel()

    async def _follow(self, fd: int) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
        )
        pending = b""
        try:
            while data := await reader.read(1 << 16):
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    self._keep(line)
                # Bounds the memory that output without a newline takes.
                pending = pending[-CONSOLE_LINE:]
            self._keep(pending)
        finally:
            transport.close()

    def _keep(self, line: bytes) -> None:
        self._lines.append(line[-CONSOLE_LINE:].decode(errors="replace").rstrip())

    async def lost(self, what: str, error: Exception) -> LabLost:
        """The error for a lost lab, with the line of its console that explains most."""
        await asyncio.wait({self._following}, timeout=CONSOLE_END_S)
        printed = [line for line in self._lines if line.strip()]
        # The line of a panic, or of init.sh's error, explains more than the lines after it.
        causes = ("Kernel panic", "Out of memory", "kickbench: ")
        cause = [line for line in printed if any(each in line for each in causes)]
        line = (cause or printed or ["nothing"])[-1].strip()
        why = str(error).rstrip(".")
        return LabLost(f"{what}: {why}. Its console printed: {line}", tuple(printed))


class Lab:
    """A booted lab. After its first failure, every use raises that failure again."""

    def __init__(
        self,
        console: _Console,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        facts: Facts,
    ) -> None:
        self.facts = facts
        self._console = console
        self._reader = reader
        self._writer = writer
        self._failure: LabLost | None = None

    async def run_ours(
        self, arguments: Sequence[str], env: Mapping[str, str], on_output: Output
    ) -> int:
        """Run a part of kickbench with this Python, and return its exit status.

        :param arguments: the arguments of Python.
        :raise LabLost: the lab died or stopped answering, or a signal ended the command, such as
            SIGKILL from the OOM killer.
        """
        env = {**env, "PYTHONPATH": import_path()}
        status = await self.run([sys.executable, "-S", *arguments], env, CHECKOUT, on_output)
        if status < 0:
            what = "kickbench did not finish in the lab"
            self._failure = await self._console.lost(what, EOFError(f"it {process.ended(status)}"))
            raise self._failure
        return status

    async def run(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, on_output: Output
    ) -> int:
        """Run a command, and return its exit status, negative for the signal that ended it.

        An error of `on_output`, or a cancellation, makes the lab unusable, because the rest of the
        command's output would be read as that of the next command.

        :param on_output: called whenever the command has written something.
        :raise LabLost: the lab died or stopped answering, or an earlier command was not read to its
            end.
        """
        if self._failure is not None:
            raise self._failure
        try:
            return await self._run(argv, env, cwd, on_output)
        except BaseException:
            if self._failure is None:
                self._failure = LabLost(
                    "The lab cannot run another command, because the output of the last one was "
                    "not read to its end; boot a new lab."
                )
            raise

    async def _run(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, on_output: Output
    ) -> int:
        environ = [f"{name}={value}" for name, value in env.items()]
        request = agent.joined([str(cwd), str(len(argv)), *argv, *environ])
        async with self._unless_lost():
            self._writer.write(b"run " + base64.b64encode(request) + b"\n")
            await self._writer.drain()
        while True:
            # on_output is called outside, because its own errors do not mean that the lab is lost.
            async with self._unless_lost():
                word, body = await _message(self._reader, Deadline.after(SILENCE_S))
                if word == "exit":
                    return _status(body)
            if word in {"out", "err"}:
                on_output(word, body)

    @asynccontextmanager
    async def _unless_lost(self) -> AsyncIterator[None]:
        """Turn an error of the connection into the failure that every later use raises again.

        :raise LabLost: the lab died or stopped answering.
        """
        try:
            yield
        except (OSError, EOFError, DeadlinePassed) as error:
            what = "The lab was lost while a command ran in it"
            self._failure = await self._console.lost(what, error)
            raise self._failure from None


async def _message(reader: asyncio.StreamReader, deadline: Deadline) -> tuple[str, bytes]:
    """The first word and the decoded body of the agent's next message; see `agent`.

    :raise EOFError: the connection ended, or the data is not a message. A broken kernel may send
        anything.
    """
    try:
        line = await deadline.wait_for(reader.readline(), "The lab's next message")
        if not line.endswith(b"\n"):
            raise EOFError("the connection to its agent ended")
        word, _, body = line[:-1].partition(b" ")
        return WORDS[word], base64.b64decode(body, validate=True)
    except (KeyError, ValueError):  # readline raises ValueError for a line above the limit
        raise EOFError("it sent data that is not a message of its agent") from None


def _strings(body: bytes) -> list[str]:
    return [os.fsdecode(each) for each in body.split(b"\0")[:-1]]


def _status(body: bytes) -> int:
    """The exit status in a message.

    :raise EOFError: the message has no exit status.
    """
    try:
        return int(_strings(body)[0])
    except (IndexError, ValueError):
        raise EOFError("it sent no exit status") from None


@asynccontextmanager
async def booted(run: Run, kernel: Bootable, settings: Settings, share: Path) -> AsyncIterator[Lab]:
    """Boot a kernel in a lab, and end the lab when the context is left.

    :param share: the only folder of this host that the lab can write to.
    :raise LabLost: the lab did not come up, or its kernel lacks something that trials need.
    :raise LabUnavailable: this host cannot boot a lab, or the lab has another accelerator than
        expected.
    """
    qemu.check_memory(settings)
    expected = qemu.accelerator()
    async with AsyncExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        stack.callback(theirs.close)
        # Do this before the deadline starts, because it makes the initramfs if the cache has none.
        command = qemu.command_line(kernel, theirs.fileno(), share, settings)
        output, console_fd = os.pipe2(os.O_CLOEXEC)
        console = _Console(output)
        stack.callback(console.close)
        deadline = Deadline.after(settings.lab_boot_s)
        started_s = time.monotonic()
        try:
            child = stack.enter_context(
                process.started(
                    command,
                    env=run.mark,
                    output=console_fd,
                    pass_fds=[theirs.fileno()],
                )
            )
        finally:
            os.close(console_fd)
            theirs.close()
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=1 << 20)
        stack.callback(writer.close)

        async def up() -> Lab:
            word, body = await _message(reader, deadline)
            strings = _strings(body)
            if word != "ready" or len(strings) < READY_STRINGS:
                raise EOFError("its first message does not name its kernel and accelerator")
            release, version, accelerator, *missing = strings
            if missing:
                raise EOFError(f"the kernel does not provide {', '.join(missing)}")
            if accelerator != expected:
                raise LabUnavailable(
                    f"The lab with kernel {kernel.build.release} runs on {accelerator}, but this "
                    f"host's labs were expected to run on {expected}. Its records would name the "
                    "wrong accelerator; run `kickbench doctor`, and try again."
                )
            boot_s = time.monotonic() - started_s
            facts = Facts(release, version, accelerator, boot_s)
            return Lab(console, reader, writer, facts)

        what = f"The lab with kernel {kernel.build.release} did not come up"
        try:
            # If QEMU dies, the agent's socket ends first, but QEMU's exit status explains more.
            booting = child.during(up(), (OSError, EOFError))
            lab = await deadline.wait_for(booting, "The lab's agent")
        except process.Ended as end:
            raise await console.lost(what, EOFError(f"QEMU {process.ended(end.status)}")) from None
        except (OSError, EOFError, DeadlinePassed) as error:
            raise await console.lost(what, error) from None
        yield lab
