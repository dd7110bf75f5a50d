# SPDX-License-Identifier: BSD-3-Clause
"""A libvirtd that belongs to a run, and the QEMUs that it has started."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from bench_lib import process
from bench_lib.deadline import Deadline
from bench_lib.errors import DeadlinePassed, HostError, LibvirtFailed
from bench_lib.libvirt import apart
from bench_lib.ownership import Run

PROGRAM = "libvirtd"

SOCKETS = Path("/run/libvirt")
"""The folder of libvirtd's sockets in its mount namespace. Sockets of guests are there as well."""

PID_FILE = SOCKETS / "libvirtd.pid"

CONFIGURATION = {
    "libvirtd.conf": """
unix_sock_dir = "/run/libvirt"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:stderr"
""",
    # Confinement of a guest has no influence on how it is stopped, and costs time.
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
"""The files of /etc/libvirt, by name."""

LAST_ERRORS = 3
"""How many of libvirtd's errors are shown if it did not start. The first one has the cause."""

DEATH_S = 0.3
"""How many seconds after the end of its connections libvirtd's exit may be seen."""

UNKNOWN = -signal.SIGKILL
"""The exit status of a QEMU whose `apart` had ended before. kickbench has killed most of these."""

LOOK_S = 0.001
"""Seconds between two looks at a process that nothing reports on."""

CREDENTIALS = struct.Struct("3i")
"""struct ucred of unix(7): pid, uid, gid."""


@dataclass
class _Reports:
    """Reader of the exit statuses that `apart` reports.

    :ivar fd: the reading end of the pipe.
    :ivar apart: whether `apart` has moved into its namespaces.
    :ivar program: the pid of the libvirtd that was started last; None before the first one.
    :ivar ended: whether no more reports arrive, because `apart` or its context has ended.
    :ivar statuses: exit statuses by pid, as in subprocess. Helpers of libvirtd are there as well,
        such as each QEMU that it has probed.
    """

    fd: int
    apart: bool = False
    program: int | None = None
    ended: bool = False
    statuses: dict[int, int] = field(default_factory=dict)
    _pending: bytes = b""

    def close(self) -> None:
        # A QEMU that survives SIGKILL is looked at later than this.
        self.ended = True
        os.close(self.fd)

    @property
    def status(self) -> int | None:
        """The exit status of `program`; None while it runs."""
        return None if self.program is None else self.statuses.get(self.program)

    def read(self) -> None:
        """Read the reports that have arrived, without waiting."""
        while not self.ended and select.select([self.fd], [], [], 0)[0]:
            data = os.read(self.fd, 65536)
            if not data:
                self.ended = True
                return
            *lines, self._pending = (self._pending + data).split(b"\n")
            for line in lines:
                if line + b"\n" == apart.APART:
                    self.apart = True
                    continue
                first, second = line.split()
                if first == apart.STARTED:
                    self.program = int(second)
                    self.statuses.pop(self.program, None)
                else:
                    self.statuses[int(first)] = int(second)


class _Orphan:
    """The interface of `process.Waitable` for a process that is not a child of this one."""

    stdin: IO[bytes] | None = None
    stdout: IO[bytes] | None = None
    stderr: IO[bytes] | None = None

    def __init__(self, pid: int, reports: _Reports) -> None:
        self.pid = pid
        self._reports = reports

    def poll(self) -> int | None:
        self._reports.read()
        status = self._reports.statuses.get(self.pid)
        if status is None and self._reports.ended and not process.lives(self.pid):
            return UNKNOWN
        return status

    def wait(self, timeout: float | None = None) -> int:
        assert timeout is not None
        deadline = Deadline.after(timeout)
        while (status := self.poll()) is None:
            if deadline.passed:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            if self._reports.ended:
                time.sleep(LOOK_S)
            else:
                select.select([self._reports.fd], [], [], deadline.remaining_s)
        return status


class Qemu(process.Child):
    """A QEMU that libvirtd has started. It is not the leader of a process group."""

    def __init__(self, pid: int, reports: _Reports) -> None:
        super().__init__(_Orphan(pid, reports))

    def signal(self, number: signal.Signals) -> None:
        # Unlike a child of this process, it may have been reaped.
        with suppress(ProcessLookupError):
            super().signal(number)

    def _kill(self) -> None:
        self.signal(signal.SIGKILL)


class Daemon:
    """A running libvirtd.

    :ivar name: a name that is unique in the run.
    :ivar child: the process that libvirtd runs under; see `apart`.
    :ivar uri: the URI that clients on this host connect to.
    :ivar starts: how often libvirtd has been started.
    """

    def __init__(self, name: str, child: process.Child, reports: _Reports, log: Path) -> None:
        self.name = name
        self.child = child
        self._reports = reports
        self._log = log
        self.starts = 1
        self.uri = f"qemu+unix:///system?socket={self.path(SOCKETS / 'libvirt-sock')}"

    def path(self, inside: Path) -> Path:
        """Return the path by which this process reaches a file of the daemon's mount namespace."""
        return Path(f"/proc/{self.child.pid}/root{inside}")

    async def up(self, deadline: Deadline) -> None:
        """Wait until clients can connect.

        :raise LibvirtFailed: libvirtd ended.
        :raise DeadlinePassed: libvirtd was not up in time.
        """

        def there() -> bool | None:
            self._reports.read()
            if (status := self.child.exit_status) is None:
                status = self._reports.status
            if status is not None:
                how = process.ended(status)
                raise LibvirtFailed(f"{PROGRAM} {how} at its start{self.last_words()}.")
            # Until `apart` has moved, this path leads to the socket of a libvirtd of the host.
            socket_path = self.path(SOCKETS / "libvirt-sock")
            is_started = self._reports.apart and self._reports.program is not None
            return (is_started and socket_path.exists()) or None

        await deadline.poll(there, f"The socket of {PROGRAM} of {self.name}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to libvirtd itself.

        :raise LibvirtFailed: libvirtd has ended.
        """
        assert self._reports.program is not None
        try:
            os.kill(self._reports.program, number)
        except ProcessLookupError:
            raise LibvirtFailed(f"{self.name} has ended{self.last_words()}.") from None

    async def check_lives(self, limit_s: float = DEATH_S) -> None:
        """Check whether libvirtd has ended, after a client has lost its connection.

        :param limit_s: how many seconds to wait for its end.
        :raise LibvirtFailed: libvirtd ended.
        """
        deadline = Deadline.after(limit_s)

        def gone() -> int | None:
            self._reports.read()
            return self._reports.status

        try:
            status = await deadline.poll(gone, f"The end of {PROGRAM}")
        except DeadlinePassed:
            return
        how = f"{process.ended(status)}{self.last_words() if status >= 0 else ''}"
        raise LibvirtFailed(f"{self.name} {how}.")

    async def restarted(self, deadline: Deadline) -> None:
        """Wait until libvirtd has ended, start it again, and wait until it is up.

        :raise LibvirtFailed: the new libvirtd ended.
        """

        def gone() -> int | None:
            self._reports.read()
            return self._reports.status

        await deadline.poll(gone, f"The end of {PROGRAM}")
        # `up` waits for the report of the new one.
        self._reports.program = None
        self.path(SOCKETS / "libvirt-sock").unlink(missing_ok=True)
        self.child.stdin.write(b"\n")
        self.starts += 1
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
        """Return the QEMU that listens on a socket, given a connection to it."""
        size = CREDENTIALS.size
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return Qemu(CREDENTIALS.unpack(found)[0], self._reports)

    def last_words(self, *levels: str) -> str:
        """Return the last errors that libvirtd logged, as the end of a sentence.

        If `apart` failed, return the last line of its traceback, which has the cause.

        :param levels: the levels of libvirtd's log, such as `warning`; `error` if none is given.
        """
        lines = self._log.read_text(errors="replace").splitlines()
        if not self._reports.apart:
            return f": {lines[-1]}" if lines else ""
        marks = [f": {level} :" for level in levels or ("error",)]
        errors = [line.split(" : ", 2)[-1] for line in lines if any(mark in line for mark in marks)]
        return f": {'; '.join(errors[-LAST_ERRORS:])}" if errors else ""


@contextmanager
def started(run: Run, name: str, netns_fd: int | None, cache: Path) -> Iterator[Daemon]:
    """Start a libvirtd, and end it with its guests when the context is left.

    :param run: the run that it belongs to.
    :param name: a name that is unique in the run.
    :param netns_fd: the network namespace to start it in; None for a new, empty one.
    :param cache: the folder in which libvirtd keeps what it finds out about QEMU.
    :raise HostError: the cache cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(
            f"The cache {cache} cannot be written ({error.strerror}); set KICKBENCH_CACHE to a "
            "folder that you can write to."
        ) from None
    log = run.folder / f"{name}.log"
    configuration = dict(CONFIGURATION)
    configuration["libvirtd.conf"] += f'host_uuid = "{uuid.uuid4()}"\n'
    with ExitStack() as stack:
        reports_fd, theirs = os.pipe2(os.O_CLOEXEC)
        reports = _Reports(reports_fd)
        stack.callback(reports.close)
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
        yield Daemon(name, child, reports, log)


def _stop(child: process.Child) -> None:
    """Make `apart` kill libvirtd and all guests, also those that kickbench did not connect to."""
    child.stdin.close()
    child.reaped_within(2 * apart.DEATH_S)
