# SPDX-License-Identifier: BSD-3-Clause
"""A libvirtd of ours, and the processes that it has started."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from bench_lib import process
from bench_lib.deadline import Deadline
from bench_lib.errors import DeadlinePassed, LibvirtFailed
from bench_lib.libvirt import apart
from bench_lib.ownership import Run

PROGRAM = "libvirtd"

SOCKETS = Path("/run/libvirt")
"""Where libvirtd has its sockets, as it sees the file system; our guests have theirs there too."""

PID_FILE = SOCKETS / "libvirtd.pid"

CONFIGURATION = {
    "libvirtd.conf": """
unix_sock_dir = "/run/libvirt"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:stderr"
""",
    # What a guest is confined by takes no part in how it is stopped, and takes time.
    "qemu.conf": """
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
max_core = 0
""",
}
"""Files of /etc/libvirt."""

LAST_ERRORS = 3
"""How many errors are shown of a libvirtd that did not start. The first names the reason."""

DEATH_S = 0.3
"""How long the exit of libvirtd may be behind the end of its connections."""

CREDENTIALS = struct.Struct("3i")
"""struct ucred of unix(7): pid, uid, gid."""


@dataclass
class _Reports:
    """Reads the exit statuses that `apart` reports. :ivar statuses: by pid."""

    fd: int
    apart: bool = False
    statuses: dict[int, int] = field(default_factory=dict)
    _pending: bytes = b""

    def read(self) -> None:
        """Take in what has arrived, without waiting."""
        while select.select([self.fd], [], [], 0)[0]:
            data = os.read(self.fd, 65536)
            if not data:
                return
            *lines, self._pending = (self._pending + data).split(b"\n")
            for line in lines:
                if line + b"\n" == apart.APART:
                    self.apart = True
                else:
                    pid, status = map(int, line.split())
                    self.statuses[pid] = status


class _Orphan:
    """What `process.Child` needs of a process that is not our child; see subprocess.Popen."""

    stdin: IO[bytes] | None = None
    stdout: IO[bytes] | None = None
    stderr: IO[bytes] | None = None

    def __init__(self, pid: int, reports: _Reports) -> None:
        self.pid = pid
        self._reports = reports

    def poll(self) -> int | None:
        self._reports.read()
        return self._reports.statuses.get(self.pid)

    def wait(self, timeout: float | None = None) -> int:
        assert timeout is not None
        deadline = Deadline.after(timeout)
        while (status := self.poll()) is None:
            if deadline.passed:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            select.select([self._reports.fd], [], [], deadline.remaining_s)
        return status


class Qemu(process.Child):
    """A QEMU that libvirtd has started. It leads no group of processes."""

    def __init__(self, pid: int, reports: _Reports) -> None:
        super().__init__(_Orphan(pid, reports))

    def signal(self, number: signal.Signals) -> None:
        # Unlike a child of ours, it may be reaped at any time.
        with suppress(ProcessLookupError):
            super().signal(number)

    def _kill(self) -> None:
        self.signal(signal.SIGKILL)


class Daemon:
    """A running libvirtd.

    :ivar child: the process that it runs under; see `apart`.
    :ivar uri: what clients on this host connect to.
    """

    def __init__(self, name: str, child: process.Child, reports: _Reports, log: Path) -> None:
        self.name = name
        self.child = child
        self._reports = reports
        self._log = log
        self._pid: int | None = None
        self.uri = f"qemu+unix:///system?socket={self.path(SOCKETS / 'libvirt-sock')}"

    def path(self, inside: Path) -> Path:
        """Where a file of the daemon's namespace is for us."""
        return Path(f"/proc/{self.child.pid}/root{inside}")

    async def up(self, deadline: Deadline) -> None:
        """Wait until the daemon can be connected to.

        :raise LibvirtFailed: it ended, or is not up in time.
        """

        def there() -> bool | None:
            self._reports.read()
            if self.child.exit_status is not None or self._reports.statuses:
                raise LibvirtFailed(f"{PROGRAM} ended at its start{self.last_words()}.")
            # Before `apart` has moved, the path would lead to a socket of the host's own libvirtd.
            socket_path = self.path(SOCKETS / "libvirt-sock")
            return (self._reports.apart and socket_path.exists()) or None

        await deadline.poll(there, f"The socket of {PROGRAM} of {self.name}")
        try:
            self._pid = int(self.path(PID_FILE).read_text())
        except (OSError, ValueError):
            raise LibvirtFailed(f"{PROGRAM} ended at its start{self.last_words()}.") from None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to libvirtd itself."""
        assert self._pid is not None
        os.kill(self._pid, number)

    async def check_lives(self) -> None:
        """Wait for a moment whether libvirtd ends, as it has if its clients lose the connection.

        :raise LibvirtFailed: libvirtd ended.
        """
        deadline = Deadline.after(DEATH_S)

        def gone() -> int | None:
            self._reports.read()
            return None if self._pid is None else self._reports.statuses.get(self._pid)

        try:
            status = await deadline.poll(gone, f"The end of {PROGRAM}")
        except DeadlinePassed:
            return
        how = f"{process.ended(status)}{self.last_words() if status >= 0 else ''}"
        raise LibvirtFailed(f"{PROGRAM} of {self.name} {how}.")

    async def restarted(self, deadline: Deadline) -> None:
        """Start another libvirtd in the place of the one that ends, and wait until it is up.

        :raise LibvirtFailed: it ended, too.
        """
        pid = self._pid
        assert pid is not None

        def gone() -> bool | None:
            self._reports.read()
            return self._reports.statuses.pop(pid, None) is not None or None

        await deadline.poll(gone, f"The end of {PROGRAM}")
        self.path(SOCKETS / "libvirt-sock").unlink(missing_ok=True)
        self.child.stdin.write(b"\n")
        await self.up(deadline)

    async def connected(self, path: Path, deadline: Deadline) -> socket.socket:
        """Connect to a socket that a guest of this daemon listens on.

        :param path: of the socket, as the guest sees it.
        """

        def attempt() -> socket.socket | None:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                made.connect(str(self.path(path)))
            except OSError:
                made.close()
                return None
            return made

        return await deadline.poll(attempt, f"The socket {path} of QEMU")

    def qemu(self, connection: socket.socket) -> Qemu:
        """The process at the other end of a socket that it listens on."""
        size = CREDENTIALS.size
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return Qemu(CREDENTIALS.unpack(found)[0], self._reports)

    def last_words(self) -> str:
        """The last errors that the daemon logged, as the end of a sentence."""
        lines = self._log.read_text(errors="replace").splitlines()
        errors = [line.split(" : ", 2)[-1] for line in lines if ": error :" in line]
        return f": {'; '.join(errors[-LAST_ERRORS:])}" if errors else ""


@contextmanager
def started(run: Run, name: str, netns_fd: int | None, cache: Path) -> Iterator[Daemon]:
    """Start a libvirtd; it is ended when the context is left.

    :param name: unique in the run; the daemon's host name begins with it.
    :param netns_fd: the network namespace to start it in; None for an empty one of its own.
    :param cache: folder in which it keeps what it finds out about QEMU.
    """
    cache.mkdir(parents=True, exist_ok=True)
    log = run.folder / f"{name}.log"
    configuration = dict(CONFIGURATION)
    configuration["libvirtd.conf"] += f'host_uuid = "{uuid.uuid4()}"\n'
    with ExitStack() as stack:
        reports_fd, theirs = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, reports_fd)
        argv = [
            *(() if netns_fd is not None else ("unshare", "--net", "--")),
            *(sys.executable, "-I", "-S", apart.__file__, str(theirs)),
            *(name[-apart.LONGEST_HOSTNAME :], str(cache), json.dumps(configuration)),
            *(PROGRAM, "--config", "/etc/libvirt/libvirtd.conf"),
            *("--pid-file", str(PID_FILE)),
        ]
        stack.callback(log.unlink, missing_ok=True)
        try:
            child = stack.enter_context(
                process.started(
                    argv,
                    env=run.mark,
                    output=log,
                    netns_fd=netns_fd,
                    pass_fds=[theirs],
                    stdin_pipe=True,
                )
            )
        finally:
            os.close(theirs)
        stack.callback(_stop, child)
        yield Daemon(name, child, _Reports(reports_fd), log)


def _stop(child: process.Child) -> None:
    """Have `apart` kill libvirtd and all of its guests, those included that we know nothing of."""
    child.stdin.close()
    child.reaped_within(2 * apart.DEATH_S)
