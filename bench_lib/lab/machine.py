"""One boot of a kernel in a virtual machine, and commands in it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench_lib import process
from bench_lib.deadline import Deadline
from bench_lib.errors import DeadlinePassed, KvmUnavailable, LabLost, LabUnavailable
from bench_lib.host import device, setup
from bench_lib.kernel.store import Bootable
from bench_lib.ownership import Run
from bench_lib.settings import CHECKOUT, Settings

SHARE = "/run/kickbench-share"
"""Where the one folder that the lab may write to is, inside."""

SILENCE_S = 60.0
"""How long a lab may say nothing. It says that it is alive every five seconds."""

CONSOLE_LINES = 300
"""Of the console, kept for whoever asks why a lab died. A panic alone is fifty."""

LAST_WORDS_S = 2.0
"""How long the console of a lab that has died may still have something to say."""

SPARE_MIB = 512
"""Memory that this host keeps beside the lab's."""

CPUS = 2

UNUSED_MODULES = (
    "acpi_cpufreq,aesni_intel,ahci,button,ccp,crc32_pclmul,crc32c_intel,crct10dif_pclmul,evdev,"
    "ghash_clmulni_intel,i2c_i801,i6300esb,iTCO_wdt,kvm_amd,kvm_intel,libahci,libata,lpc_ich,"
    "pcspkr,powernow_k8,psmouse,qemu_fw_cfg,serio_raw,sg,sha1_ssse3,sha256_ssse3,sha512_ssse3,"
    "sr_mod"
)
"""Drivers of the lab's hardware that no trial uses. udev would load them while the lab boots, which
under emulation is a third of the whole boot. KVM's are among them because the agent loads it."""

BIN = Path(sys.executable).parent
"""Where vng is, and what it calls."""

Output = Callable[[str, bytes], None]
"""Called with "out" or "err" and what was written there."""


@dataclass(frozen=True)
class Facts:
    """What a lab said of itself when it was up.

    :ivar accelerator: `kvm` or `tcg`, as seen from inside.
    :ivar boot_s: seconds from virtme-ng's start until it could take a command.
    """

    release: str
    version: str
    accelerator: str
    boot_s: float

    def __str__(self) -> str:
        return f"{self.release} runs on {self.accelerator}, up after {self.boot_s:.1f} s"


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


def check_host(settings: Settings) -> None:
    """Refuse a lab that would not fit.

    :raise LabUnavailable: the sentence says how much memory is missing.
    """
    available_mib = setup.memory_mib("MemAvailable") or 0
    if available_mib < settings.lab_memory_mib + SPARE_MIB:
        raise LabUnavailable(
            f"The lab needs {settings.lab_memory_mib} MiB of memory and {SPARE_MIB} to spare, and "
            f"{available_mib} are available; free some, or set KICKBENCH_LAB_MEMORY lower."
        )


ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--")


@cache
def alone() -> tuple[str, ...]:
    """What starts virtme-ng in a namespace of processes of its own, where that may be had.

    It starts a shell that starts a script that starts QEMU. When we die, however that is, their
    first goes, and the kernel ends all of such a namespace with its first. In a container without
    CAP_SYS_ADMIN there is none; that ends all with its own first, and else `kickbench clean` does.
    """
    tried = subprocess.run([*ALONE, "true"], capture_output=True, check=False)
    return ALONE if tried.returncode == 0 else ()


AGENT_SOCKET = "agent.sock"
"""What the agent is talked to through, in the run's folder."""


def command_line(kernel: Bootable, socket: Path, share: Path, settings: Settings) -> list[str]:
    """virtme-ng's arguments.

    :param socket: the agent's, by a path of at most 107 bytes.
    :param share: the one folder that the lab may write to.
    """
    nine_p = "security_model=none,multidevs=remap"
    # fmt: off
    qemu = [
        # What the agent is talked to through.
        "-chardev", f"socket,id=agent,path={socket}",
        "-device", "virtio-serial-pci",
        "-device", "virtserialport,name=kickbench.agent,chardev=agent",
        # This userland once more, for the agent to mount with a cache; see agent.py.
        "-fsdev", f"local,id=kbroot,path=/,readonly=on,{nine_p}",
        "-device", "virtio-9p-pci,fsdev=kbroot,mount_tag=kickbench-root",
        "-fsdev", f"local,id=kbshare,path={share},{nine_p}",
        "-device", "virtio-9p-pci,fsdev=kbshare,mount_tag=kickbench-share",
    ]
    agent = [sys.executable, "-I", "-S", str(Path(__file__).with_name("agent.py")), SHARE]
    return [
        *alone(),
        str(BIN / "vng"),
        "--run", str(kernel.vmlinuz),
        # The console, so that a lab that dies says why.
        "--verbose",
        "--force-9p",
        "--cpus", str(CPUS),
        "--memory", f"{settings.lab_memory_mib}M",
        "--cwd", "/",
        "--append", f"modprobe.blacklist={UNUSED_MODULES}",
        # One CPU until the agent is done: see its start_other_cpus().
        *(["--disable-kvm", "--append", "maxcpus=1"] if accelerator() == "tcg" else []),
        f"--qemu-opts={shlex.join(qemu)}",
        "--exec", shlex.join(agent),
    ]
    # fmt: on


class _Console:
    """The last lines that virtme-ng, QEMU and the kernel's console have written to a pipe."""

    def __init__(self, fd: int) -> None:
        """:param fd: the pipe's reading end, which is closed at the end."""
        self._lines: deque[str] = deque(maxlen=CONSOLE_LINES)
        self._following = asyncio.create_task(self._follow(fd))

    def close(self) -> None:
        self._following.cancel()

    async def _follow(self, fd: int) -> None:
        reader = asyncio.StreamReader(limit=1 << 20)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
        )
        try:
            while line := await reader.readline():
                self._lines.append(line.decode(errors="replace").rstrip())
        finally:
            transport.close()

    async def lost(self, what: str, error: Exception) -> LabLost:
        """Why a lab was lost, with what it said last."""
        await asyncio.wait({self._following}, timeout=LAST_WORDS_S)
        said = [line for line in self._lines if line.strip()]
        # A panic's own line says more than those after it.
        cause = [line for line in said if "Kernel panic" in line or "Out of memory" in line]
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
        status = await self.run([sys.executable, *arguments], env, CHECKOUT, on_output)
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
        request = {"run": list(argv), "env": dict(env), "cwd": str(cwd)}
        async with self._unless_lost():
            self._writer.write(json.dumps(request).encode() + b"\n")
            await self._writer.drain()
        while True:
            # What the caller does with the output may fail by itself, and is no loss of the lab.
            async with self._unless_lost():
                message = await _message(self._reader, Deadline.after(SILENCE_S))
            if "exit" in message:
                return int(message["exit"])
            for stream in ("out", "err"):
                if stream in message:
                    on_output(stream, base64.b64decode(message[stream]))

    @asynccontextmanager
    async def _unless_lost(self) -> AsyncIterator[None]:
        """:raise LabLost: the lab died or stopped answering; whatever is asked later does too."""
        try:
            yield
        except (OSError, EOFError, DeadlinePassed) as error:
            what = "The lab was lost while a command ran in it"
            self._failure = await self._console.lost(what, error)
            raise self._failure from None


async def _message(reader: asyncio.StreamReader, deadline: Deadline) -> dict[str, Any]:
    line = await deadline.wait_for(reader.readline(), "The lab's next message")
    if not line.endswith(b"\n"):
        raise EOFError("it ended")
    message: dict[str, Any] = json.loads(line)
    return message


def _agent_socket(run: Run, stack: AsyncExitStack) -> Path:
    """The agent's socket, by a path that is short wherever the runtime folder is.

    The path of a socket may have 107 bytes; see unix(7). virtme-ng passes no descriptors on to
    QEMU, so QEMU goes through ours.
    """
    folder = os.open(run.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, folder)
    return Path(f"/proc/{os.getpid()}/fd/{folder}") / AGENT_SOCKET


@asynccontextmanager
async def booted(run: Run, kernel: Bootable, settings: Settings, share: Path) -> AsyncIterator[Lab]:
    """Boot a kernel; the machine is gone when the context is left.

    :param share: a folder; the only one of this host that the lab can write to.
    :raise LabLost: it did not come up, or without what trials need.
    :raise LabUnavailable: this host cannot boot one, or it runs on something else than expected.
    """
    check_host(settings)
    expected = accelerator()
    deadline = Deadline.after(settings.lab_boot_s)
    begin_s = time.monotonic()
    async with AsyncExitStack() as stack:
        connected: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
            asyncio.Queue()
        )

        async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await connected.put((reader, writer))

        socket = _agent_socket(run, stack)
        server = await asyncio.start_unix_server(on_connection, socket, limit=1 << 20)
        stack.callback(server.close)
        output, theirs = os.pipe2(os.O_CLOEXEC)
        console = _Console(output)
        stack.callback(console.close)
        try:
            child = stack.enter_context(
                process.started(
                    command_line(kernel, socket, share, settings),
                    env={**run.mark, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
                    output=theirs,
                )
            )
        finally:
            os.close(theirs)

        async def up() -> Lab:
            reader, writer = await connected.get()
            stack.callback(writer.close)
            ready = await _message(reader, deadline)
            if "fatal" in ready:
                raise EOFError(ready["fatal"])
            said = ready["ready"]
            if said["missing"]:
                raise EOFError(f"the kernel gives no {', '.join(said['missing'])}")
            if said["accelerator"] != expected:
                raise LabUnavailable(
                    f"The lab with kernel {kernel.build.release} runs on {said['accelerator']}, "
                    f"though this host was found to give it {expected}, so its results would "
                    "count as those of another lab; run `kickbench doctor`, and try again."
                )
            facts = Facts(
                said["release"],
                said["version"],
                said["accelerator"],
                boot_s=time.monotonic() - begin_s,
            )
            return Lab(console, reader, writer, facts)

        what = f"The lab with kernel {kernel.build.release} did not come up"
        try:
            lab = await deadline.wait_for(child.during(up()), "The lab's agent")
        except process.Ended as end:
            raise await console.lost(what, EOFError(f"virtme-ng {ended(end.status)}")) from None
        except (OSError, EOFError, DeadlinePassed) as error:
            raise await console.lost(what, error) from None
        yield lab
