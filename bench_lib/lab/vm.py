# SPDX-License-Identifier: BSD-3-Clause
"""One boot of a kernel in a virtual machine, and commands in it."""

from __future__ import annotations

import asyncio
import base64
import os
import platform
import re
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench_lib import architecture, process
from bench_lib.deadline import Deadline
from bench_lib.errors import DeadlinePassed, KvmUnavailable, LabLost, LabUnavailable
from bench_lib.host import device, setup
from bench_lib.kernel.store import Bootable
from bench_lib.lab import agent, initramfs
from bench_lib.ownership import Run
from bench_lib.process import run_tool
from bench_lib.record import Host
from bench_lib.settings import CHECKOUT, Settings

SHARE = "/run/kickbench-share"
"""Where the one folder that the lab may write to is, inside."""

SILENCE_S = 60.0
"""How long a lab may say nothing. It says that it is alive every five seconds."""

CONSOLE_LINES = 300
"""Of the console, kept for whoever asks why a lab died. A panic alone is fifty."""

CONSOLE_LINE = 1000
"""Bytes of a line of the console that are kept."""

LAST_WORDS_S = 2.0
"""How long the console of a lab that has died may still have something to say."""

SPARE_MIB = 512
"""Memory that this host keeps beside the lab's."""

CPUS = 2
"""Of a lab that KVM runs. An emulated lab has one, and takes a second one of this host for QEMU.

With two, which QEMU emulates in a thread each, 3 of 126 trials were lost with QEMU 7.2: the nested
guest reset, or stood still, or its migration failed. Kernels also panicked in an int3 that they did
not know, because one CPU still ran the breakpoint of a patch that the other had completed. With one
CPU none of 600 trials was lost (300 each of Linux 6.1 and 6.12, in 60 boots).
"""

WORDS = {each.encode(): each for each in ("ready", "out", "err", "exit", "alive")}
"""What messages of the agent begin with."""

READY_STRINGS = 3
"""Of a lab's first message, at the least; see `agent`."""

Output = Callable[[str, bytes], None]
"""Called with "out" or "err" and what was written there."""


@dataclass(frozen=True)
class Facts:
    """What a lab said of itself when it was up.

    :ivar accelerator: `kvm` or `tcg`, as seen from inside.
    :ivar boot_s: seconds from QEMU's start until it could take a command.
    :ivar failed: why each lab that was tried before it did not come up.
    """

    release: str
    version: str
    accelerator: str
    boot_s: float
    failed: tuple[str, ...] = ()

    def __str__(self) -> str:
        up = f"{self.release} runs on {self.accelerator}, up after {self.boot_s:.1f} s"
        return "; before that: ".join([up, *self.failed])


@cache
def accelerator() -> str:
    """What a lab runs on: `kvm` where this host's KVM works and nests, else `tcg`, which nests.

    Both are asked, because a container sees the module's switch without having the device. The
    answer is kept, so that all that goes by it in a process goes by the same.
    """
    try:
        device.check()
    except KvmUnavailable:
        return "tcg"
    return "kvm" if setup.nested() else "tcg"


def host() -> Host:
    """What records of this host's lab are marked with."""
    return Host("lab", accelerator(), platform.node())


@cache
def qemu_version() -> str:
    """The version of the QEMU that labs run on, as QEMU gives it in its greeting: 7.2.22 (Debian).

    :raise ProgramMissing: there is no QEMU.
    """
    said = run_tool([architecture.for_trials().qemu, "--version"])
    return said.partition("\n")[0].removeprefix("QEMU emulator version ")


def check_host(settings: Settings, labs: int = 1) -> None:
    """Refuse labs that would not fit.

    :param labs: that are to run at once; of those none is up yet.
    :raise LabUnavailable: the sentence says how much memory is missing.
    """
    available_mib = setup.memory_mib("MemAvailable") or 0
    if available_mib < labs * settings.lab_memory_mib + SPARE_MIB:
        many = f"{labs} labs at once need {labs} times" if labs > 1 else "The lab needs"
        fewer = " ask for fewer with --jobs or KICKBENCH_JOBS," if labs > 1 else ""
        raise LabUnavailable(
            f"{many} {settings.lab_memory_mib} MiB of memory and {SPARE_MIB} to spare, and "
            f"{available_mib} are available; free some,{fewer} or set KICKBENCH_LAB_MEMORY lower."
        )


def command_line(kernel: Bootable, agent_fd: int, share: Path, settings: Settings) -> list[str]:
    """QEMU's command line.

    :param agent_fd: QEMU's end of the socket to the agent.
    :param share: the one folder that the lab can write to.
    :raise LabError: what the lab boots cannot be made; see `initramfs`.
    """
    emulated = accelerator() == "tcg"
    files = initramfs.files(kernel, unpacked=emulated)
    trials = architecture.for_trials()
    nine_p = "security_model=none,multidevs=remap"
    # fmt: off
    return [
        trials.qemu,
        "-nodefaults",
        "-no-user-config",
        "-display", "none",
        "-machine", trials.machine,
        "-accel", "tcg" if emulated else "kvm",
        # Has what KVM needs to run in it, on either. KVM of a PREEMPT_RT kernel needs a TSC of
        # constant speed as well; QEMU's is one, but QEMU does not offer it for TCG.
        "-cpu", "max,x-force-features=on,+invtsc" if emulated else "max",
        # See `CPUS`.
        "-smp", str(1 if emulated else CPUS),
        "-m", f"{settings.lab_memory_mib}M",
        "-kernel", str(files.kernel),
        "-initrd", str(files.initramfs),
        "-append", " ".join(parameters(kernel, emulated=emulated)),
        # A panic ends QEMU instead.
        "-no-reboot",
        # The console, so that a lab that dies says why.
        "-serial", "stdio",
        # What the agent is talked to through.
        "-chardev", f"socket,id=agent,fd={agent_fd}",
        "-device", "virtio-serial-pci",
        "-device", f"virtserialport,name={agent.PORT},chardev=agent",
        "-fsdev", f"local,id=root,path=/,readonly=on,{nine_p}",
        "-device", "virtio-9p-pci,fsdev=root,mount_tag=kickbench-root",
        "-fsdev", f"local,id=share,path={str(share).replace(',', ',,')},{nine_p}",
        "-device", "virtio-9p-pci,fsdev=share,mount_tag=kickbench-share",
    ]
    # fmt: on


LONGEST_COMMAND_LINE = 2047
"""Bytes that an x86 kernel takes: COMMAND_LINE_SIZE of arch/x86/include/asm/setup.h in Linux."""


def parameters(kernel: Bootable, *, emulated: bool) -> list[str]:
    """The kernel's command line.

    :raise LabUnavailable: it would be longer than the kernel reads.
    """
    ours = {
        # init.sh looks it up from a root of its own, where links would lead elsewhere.
        "KICKBENCH_MODULES": kernel.modules.resolve(),
        "KICKBENCH_SHARE": SHARE,
        "KICKBENCH_PYTHON": sys.executable,
        "KICKBENCH_AGENT": agent.__file__,
    }
    found = [
        "console=ttyS0",
        # A panic and what comes before it are printed all the same.
        "quiet",
        # At once, which with -no-reboot is the end.
        "panic=-1",
        # Tests of algorithms that no trial uses take half a second of Linux 6.12.
        *(["cryptomgr.notests"] if emulated else []),
        *(f"{name}={_escaped(str(value))}" for name, value in ours.items()),
    ]
    if len(" ".join(found)) > LONGEST_COMMAND_LINE:
        raise LabUnavailable(
            "These paths are too long for the command line of a lab's kernel: "
            f"{', '.join(map(str, ours.values()))}. Set KICKBENCH_CACHE to a shorter path, or "
            "install kickbench in one; a character that is not of ASCII counts ten times."
        )
    return found


def _escaped(text: str) -> str:
    """A word of the kernel's command line, which printf's %b turns back; see init.sh."""
    return re.sub(rb"[^\w/.,+-]", lambda each: b"\\0%03o" % each[0][0], text.encode()).decode()


class _Console:
    """The last lines that QEMU and the kernel's console have written to a pipe."""

    def __init__(self, fd: int) -> None:
        """:param fd: the pipe's reading end, which is closed at the end."""
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
                # Without this, what never ends a line would be kept whole.
                pending = pending[-CONSOLE_LINE:]
            self._keep(pending)
        finally:
            transport.close()

    def _keep(self, line: bytes) -> None:
        self._lines.append(line[-CONSOLE_LINE:].decode(errors="replace").rstrip())

    async def lost(self, what: str, error: Exception) -> LabLost:
        """Why a lab was lost, with what it said last."""
        await asyncio.wait({self._following}, timeout=LAST_WORDS_S)
        said = [line for line in self._lines if line.strip()]
        # A panic's own line says more than those after it, and so does what init.sh gives up with.
        causes = ("Kernel panic", "Out of memory", "kickbench: ")
        cause = [line for line in said if any(each in line for each in causes)]
        last = (cause or said or ["nothing"])[-1].strip()
        why = str(error).rstrip(".")
        return LabLost(f"{what}: {why}. Its console said last: {last}", tuple(said))


def ended(status: int) -> str:
    """How a process ended, as part of a sentence. :param status: as in subprocess."""
    if status >= 0:
        return f"exited with status {status}"
    names = {each.value: each.name for each in signal.Signals}
    return f"was ended by {names.get(-status, f'signal {-status}')}"


class Lab:
    """A booted lab. After its first failure every use raises that failure again."""

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
        """Run a part of kickbench, with this Python; its exit status.

        :param arguments: Python's.
        :raise LabLost: as in run(); or a signal ended it, such as the one that the kernel sends
            where memory is short.
        """
        # -S leaves out `site`, which imports what packages ask for in .pth files.
        paths = [path for path in sys.path if Path(path).is_dir()]
        env = {**env, "PYTHONPATH": os.pathsep.join(paths)}
        status = await self.run([sys.executable, "-S", *arguments], env, CHECKOUT, on_output)
        if status < 0:
            what = "kickbench gave no result in the lab"
            self._failure = await self._console.lost(what, EOFError(f"it {ended(status)}"))
            raise self._failure
        return status

    async def run(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, on_output: Output
    ) -> int:
        """Run a command; its exit status, negative for the signal that ended it.

        :param on_output: called with what it writes, as it does.
        :raise LabLost: the lab died or stopped answering.
        """
        if self._failure is not None:
            raise self._failure
        environ = [f"{name}={value}" for name, value in env.items()]
        request = agent.joined([str(cwd), str(len(argv)), *argv, *environ])
        async with self._unless_lost():
            self._writer.write(b"run " + base64.b64encode(request) + b"\n")
            await self._writer.drain()
        while True:
            # What the caller does with the output may fail by itself, and is no loss of the lab.
            async with self._unless_lost():
                word, body = await _message(self._reader, Deadline.after(SILENCE_S))
                if word == "exit":
                    return _status(body)
            if word in {"out", "err"}:
                on_output(word, body)

    @asynccontextmanager
    async def _unless_lost(self) -> AsyncIterator[None]:
        """:raise LabLost: the lab died or stopped answering; whatever is asked later does too."""
        try:
            yield
        except (OSError, EOFError, DeadlinePassed) as error:
            what = "The lab was lost while a command ran in it"
            self._failure = await self._console.lost(what, error)
            raise self._failure from None


async def _message(reader: asyncio.StreamReader, deadline: Deadline) -> tuple[str, bytes]:
    """The agent's next message: its word and its body; see `agent`.

    :raise EOFError: there is none, or what comes is not one: a broken kernel may send anything.
    """
    try:
        line = await deadline.wait_for(reader.readline(), "The lab's next message")
        if not line.endswith(b"\n"):
            raise EOFError("it ended")
        word, _, body = line[:-1].partition(b" ")
        return WORDS[word], base64.b64decode(body, validate=True)
    except (KeyError, ValueError):  # the latter also of a line that is longer than any message
        raise EOFError("it sent what is not a message of its agent") from None


def _strings(body: bytes) -> list[str]:
    return [os.fsdecode(each) for each in body.split(b"\0")[:-1]]


def _status(body: bytes) -> int:
    """The exit status in a message. :raise EOFError: there is none."""
    try:
        return int(_strings(body)[0])
    except (IndexError, ValueError):
        raise EOFError("it sent no exit status") from None


@asynccontextmanager
async def booted(run: Run, kernel: Bootable, settings: Settings, share: Path) -> AsyncIterator[Lab]:
    """Boot a kernel; the machine is gone when the context is left.

    :param share: a folder; the only one of this host that the lab can write to.
    :raise LabLost: it did not come up, or without what trials need.
    :raise LabUnavailable: this host cannot boot one, or it runs on something else than expected.
    """
    check_host(settings)
    expected = accelerator()
    async with AsyncExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        stack.callback(theirs.close)
        # Before time is taken, because what the lab boots is made first where it is not there yet.
        command = command_line(kernel, theirs.fileno(), share, settings)
        output, console_fd = os.pipe2(os.O_CLOEXEC)
        console = _Console(output)
        stack.callback(console.close)
        deadline = Deadline.after(settings.lab_boot_s)
        begin_s = time.monotonic()
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
                raise EOFError("it does not say what it is")
            release, version, accelerator_inside, *missing = strings
            if missing:
                raise EOFError(f"the kernel gives no {', '.join(missing)}")
            if accelerator_inside != expected:
                raise LabUnavailable(
                    f"The lab with kernel {kernel.build.release} runs on {accelerator_inside}, "
                    f"though this host was found to give it {expected}, so its results would "
                    "count as those of another lab; run `kickbench doctor`, and try again."
                )
            boot_s = time.monotonic() - begin_s
            facts = Facts(release, version, accelerator_inside, boot_s)
            return Lab(console, reader, writer, facts)

        what = f"The lab with kernel {kernel.build.release} did not come up"
        try:
            # The end of the agent's socket is seen before that of QEMU, which says more.
            booting = child.during(up(), (OSError, EOFError))
            lab = await deadline.wait_for(booting, "The lab's agent")
        except process.Ended as end:
            raise await console.lost(what, EOFError(f"QEMU {ended(end.status)}")) from None
        except (OSError, EOFError, DeadlinePassed) as error:
            raise await console.lost(what, error) from None
        yield lab
