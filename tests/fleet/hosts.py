# SPDX-License-Identifier: BSD-3-Clause
"""Simulated hosts on this machine, and the switch that joins them.

A simulated host is a set of namespaces: network, mounts, host name and processes. It has a machine
id, a boot id and a /run of its own, and shares the rest of the file system. Its first process ends
with this process, and the kernel then kills all others. Nothing is made in the namespaces of this
machine: interfaces are made where they belong, and all mounts belong to the host.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

BRIDGE = "switch"
"""The name of the bridge in the namespace of the switch."""

NETWORK = "198.51.100"
"""The network of the simulated hosts, which RFC 5737 reserves for documentation."""

HOST_INTERFACE = "eth0"

NAMESPACES = ("net", "mnt", "uts", "pid")
"""The kinds of namespaces that a simulated host has, as in /proc/PID/ns."""

RUN = Path("/run")
"""The folder that is a file system of the host's own, of limited size."""

TEMPORARY = RUN / "tmp"
RUNTIME = RUN / "kickbench"

FILLER = RUN / "filler"
"""The file that fills the disk."""

RUN_MIB = 256
"""The size of /run in MiB, by default."""

BOOT = """
set -e
name=$1 folder=$2 mib=$3
shift 3
mount -t tmpfs -o size=${mib}m,mode=755 run /run
# A program that was killed leaves its semaphores there, and process ids are the same in all hosts.
mount -t tmpfs shm /dev/shm
mkdir -m 1777 /run/tmp
mkdir /run/netns /run/lock
mount --bind "$folder/machine-id" /etc/machine-id
mount --bind "$folder/boot-id" /proc/sys/kernel/random/boot_id
while [ $# -gt 0 ]; do
    mount --bind "$1" "$2"
    shift 2
done
hostname "$name"
ip link set lo up
# Processes without a parent become children of this one. The kernel reaps them if their end is
# ignored, and a program that is executed goes on to ignore it.
trap '' CHLD
echo up
exec cat
"""
"""The script of a host's first process. It ends when its input does."""

SWITCH = f"""
set -e
ip link add {BRIDGE} type bridge
ip link set {BRIDGE} up
echo up
exec cat
"""
"""The script of the process that holds the switch."""


class NotUp(Exception):
    """A namespace could not be set up; the message has the reason."""


def _keeper(wrapper: Sequence[str], script: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start the process that holds namespaces, and wait until they are set up.

    :param wrapper: the command that makes the namespaces.
    :raise NotUp: the script failed.
    """
    keeper = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *wrapper, "sh", "-c", script, "sh", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert keeper.stdout is not None
    if keeper.stdout.readline() != b"up\n":
        _, errors = keeper.communicate()
        raise NotUp(errors.decode().strip())
    return keeper


def _end(keeper: subprocess.Popen[bytes]) -> None:
    """Kill a keeper. When it is reaped, everything in its namespace of processes is dead."""
    keeper.kill()
    keeper.communicate()


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    with suppress(FileNotFoundError, ProcessLookupError):
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        return [int(each) for task in tasks for each in task.read_text().split()]
    return []


def state_of(pid: int) -> str:
    """The state of a process as ps(1) shows it, such as S or T; "" if there is no such process."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    return ""


def _ip(pid: int, *commands: str) -> None:
    """Run commands of ip(8) in the network namespace of a process."""
    subprocess.run(
        ["nsenter", "--target", str(pid), "--net", "ip", "-batch", "-"],
        input="".join(f"{each}\n" for each in commands).encode(),
        check=True,
        capture_output=True,
    )


class Switch:
    """A bridge in a network namespace of its own. Hosts are plugged into its ports."""

    def __enter__(self) -> Self:
        self._keeper = _keeper(["unshare", "--net"], SWITCH)
        self._ports = 0
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _end(self._keeper)

    @property
    def pid(self) -> int:
        return self._keeper.pid

    def next_port(self) -> int:
        """The number of a port that no host has."""
        self._ports += 1
        return self._ports

    def connect(self, port: int, host_pid: int) -> None:
        """Lay a cable from a port to the host whose first process is given."""
        # The kernel removes the cable of a host that was switched off a moment later than the host.
        subprocess.run(
            ["nsenter", "--target", str(self.pid), "--net",
             "ip", "link", "delete", _interface(port)],
            check=False,
            capture_output=True,
        )  # fmt: skip
        subprocess.run(
            ["ip", "link", "add", HOST_INTERFACE, "netns", str(host_pid),
             "type", "veth", "peer", "name", _interface(port), "netns", str(self.pid)],
            check=True,
            capture_output=True,
        )  # fmt: skip
        self.plug(port)
        _ip(self.pid, f"link set {_interface(port)} up")
        _ip(
            host_pid,
            f"address add {address(port)}/24 dev {HOST_INTERFACE}",
            f"link set {HOST_INTERFACE} up",
        )

    def plug(self, port: int) -> None:
        """Let frames pass between a port and the others."""
        _ip(self.pid, f"link set {_interface(port)} master {BRIDGE}")

    def unplug(self, port: int) -> None:
        """Drop all frames to and from a port. The host sees no error, and its link stays up."""
        _ip(self.pid, f"link set {_interface(port)} nomaster")


def _interface(port: int) -> str:
    return f"port{port}"


def address(port: int) -> str:
    """The address of the host at a port."""
    return f"{NETWORK}.{port}"


class HostProcess:
    """A process of a simulated host.

    :ivar log: the file with its output.
    """

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self._popen = popen
        self.log = log

    @property
    def pid(self) -> int:
        """The id of the process on this machine.

        :raise ProcessLookupError: it has ended.
        """
        # nsenter(1) starts it in the host's namespace of processes, and waits for its end.
        while self.runs:
            if found := children(self._popen.pid):
                return found[0]
        raise ProcessLookupError(self.output())

    @property
    def runs(self) -> bool:
        return self._popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; do nothing if the process has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process at once, and wait for its end."""
        self.signal(signal.SIGKILL)
        self.follow()
        self.wait()

    def follow(self) -> None:
        """Continue nsenter(1), which stops itself when it sees that the process has stopped."""
        self._popen.send_signal(signal.SIGCONT)

    def wait(self, limit_s: float = 60.0) -> int:
        """Wait for the end, and return the exit status, or 128 and the number of the signal.

        :raise subprocess.TimeoutExpired: it has not ended within the limit.
        """
        status = self._popen.wait(limit_s)
        return status if status >= 0 else 128 - status

    def output(self) -> str:
        """What it has printed, errors included."""
        return self.log.read_text(errors="replace")


@dataclass
class SimulatedHost:
    """A host that can be switched on and off. Changes of its fields apply when it is switched on.

    :ivar name: the host name.
    :ivar folder: a folder for its files and logs, which outlive its switching off.
    :ivar environment: the environment of its processes, without `TMPDIR`, which is in its /run.
    :ivar machine_id: the content of its /etc/machine-id.
    :ivar run_mib: the size of its /run, which has the runtime folder and TMPDIR, in MiB.
    :ivar files: files of the host's own, by the path that they replace.
    """

    switch: Switch
    name: str
    folder: Path
    environment: Mapping[str, str]
    machine_id: str = ""
    run_mib: int = RUN_MIB
    files: Mapping[Path, Path] | None = None

    def __post_init__(self) -> None:
        self.machine_id = self.machine_id or secrets.token_hex(16)
        self.folder.mkdir(parents=True)
        self._port = self.switch.next_port()
        self._keeper: subprocess.Popen[bytes] | None = None
        self._started: list[HostProcess] = []

    @property
    def address(self) -> str:
        return address(self._port)

    @property
    def pid(self) -> int:
        """The id of its first process on this machine. The host has to be on."""
        assert self._keeper is not None, f"{self.name} is off"
        return children(self._keeper.pid)[0]

    def on(self) -> None:
        """Switch the host on. Each time it has another boot id, and an empty /run.

        :raise NotUp: its namespaces could not be set up.
        """
        assert self._keeper is None, f"{self.name} is on"
        (self.folder / "machine-id").write_text(f"{self.machine_id}\n")
        (self.folder / "boot-id").write_text(f"{uuid.uuid4()}\n")
        files = [str(each) for place, own in (self.files or {}).items() for each in (own, place)]
        self._keeper = _keeper(
            ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child",
             "--mount-proc"],
            BOOT,
            self.name, str(self.folder), str(self.run_mib), *files,
        )  # fmt: skip
        self.switch.connect(self._port, self.pid)

    def off(self) -> None:
        """Take the power away: kill all processes of the host at once. The host may be off."""
        if self._keeper is not None:
            _end(self._keeper)
            self._keeper = None
            for each in self._started:
                each.follow()
                each.wait()

    def unplug(self) -> None:
        """Cut the host off from the network. Nothing on the host reports an error."""
        self.switch.unplug(self._port)

    def plug(self) -> None:
        """End what `unplug` began."""
        self.switch.plug(self._port)

    def freeze(self) -> None:
        """Stop all processes of the host, and wait until they have stopped."""
        self._signal_all("STOP")
        while any(state_of(pid) in {"R", "S"} for pid in self.processes()):
            pass

    def thaw(self) -> None:
        """End what `freeze` began."""
        self._signal_all("CONT")
        for each in self._started:
            each.follow()

    def _signal_all(self, name: str) -> None:
        # To kill(2), -1 means all processes that it can see but the first one and the caller.
        subprocess.run(
            ["nsenter", "--target", str(self.pid), "--pid", "sh", "-c", f"kill -s {name} -- -1"],
            check=True,
            capture_output=True,
        )

    def fill_disk(self) -> None:
        """Leave no room in /run, where the runtime folder is."""
        self.run(["sh", "-c", f"cat /dev/zero >{FILLER} 2>/dev/null || true"])

    def free_disk(self) -> None:
        """End what `fill_disk` began."""
        self.run(["rm", "-f", str(FILLER)])

    def root(self, path: Path) -> Path:
        """The path by which this process reaches a path of the host, such as one in its /run."""
        return Path(f"/proc/{self.pid}/root", *path.parts[1:])

    def start(
        self, argv: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> HostProcess:
        """Start a process in the host. Its output is in a log of its own.

        :param environment: variables to add to those of the host.
        """
        log = self.folder / f"{len(self._started)}-{Path(argv[0]).name}.log"
        with log.open("wb") as output:
            process = HostProcess(self._popen(argv, environment or {}, output, output), log)
        self._started.append(process)
        return process

    def talk(
        self, argv: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process in the host whose input and output are pipes. The caller ends it.

        :param environment: variables to add to those of the host.
        """
        log = self.folder / f"{Path(argv[0]).name}.log"
        with log.open("ab") as errors:
            pipe = subprocess.PIPE
            return self._popen(argv, environment or {}, pipe, errors, pipe)

    def _popen(
        self,
        argv: Sequence[str | Path],
        environment: Mapping[str, str],
        output: IO[bytes] | int,
        errors: IO[bytes] | int,
        given: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["nsenter", "--target", str(self.pid), "--net", "--mount", "--uts", "--pid",
             f"--wd={self.folder}", "--", *argv],
            env={**self.environment, "TMPDIR": str(TEMPORARY), **environment},
            stdin=given,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )  # fmt: skip

    def run(
        self,
        argv: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        *,
        limit_s: float = 600.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a process in the host to its end.

        :raise subprocess.TimeoutExpired: it has not ended within the limit, and was killed.
        """
        popen = self._popen(argv, environment or {}, subprocess.PIPE, subprocess.PIPE)
        try:
            output, errors = popen.communicate(timeout=limit_s)
        except BaseException:
            HostProcess(popen, self.folder).kill()
            raise
        return subprocess.CompletedProcess(
            argv, popen.returncode, output.decode(errors="replace"), errors.decode(errors="replace")
        )

    def processes(self) -> list[int]:
        """The ids, on this machine, of the processes of the host, without its first one."""
        first = self.pid
        mine = Path(f"/proc/{first}/ns/pid").readlink()
        return sorted(pid for pid in _in_namespaces({str(mine)}) if pid != first)

    def namespaces(self) -> set[str]:
        """Its namespaces, as the links in /proc/PID/ns name them."""
        return {str(Path(f"/proc/{self.pid}/ns/{kind}").readlink()) for kind in NAMESPACES}


def _in_namespaces(namespaces: set[str]) -> Iterator[int]:
    """The processes on this machine that are in one of these namespaces."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if namespaces & {str((folder / "ns" / kind).readlink()) for kind in NAMESPACES}:
                yield int(folder.name)


def left_of(namespaces: set[str], folder: Path) -> list[str]:
    """What there still is of these namespaces, and of mounts from this folder, on this machine."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return [
        *(f"process {pid}" for pid in _in_namespaces(namespaces)),
        *(line for line in mounts if str(folder) in line),
        *(line for line in mounts if any(each in line for each in namespaces)),
    ]


@contextmanager
def switched_on(host: SimulatedHost) -> Iterator[SimulatedHost]:
    """Switch a host on, and off again when the context is left."""
    host.on()
    try:
        yield host
    finally:
        host.off()
