# SPDX-License-Identifier: BSD-3-Clause
"""The parent process of a libvirtd. It makes the namespaces, and reaps the QEMUs.

    python -I -S apart.py REPORTS HOSTNAME CACHE CONFIGURATION PROGRAM [ARGUMENT...]

It moves into new mount and UTS namespaces, in which all folders of libvirt are empty, except its
cache. So PROGRAM, which it starts there, neither sees nor touches a libvirtd of the host. It starts
PROGRAM again when a line arrives on stdin, and kills everything below it when stdin ends.

libvirtd daemonizes QEMU, so that another process has to reap it. libvirtd believes that a dead QEMU
lives until it has been reaped, and checks every 0.2 s. This process reaps at once, as systemd does,
and writes a line with the pid and the exit status to the descriptor REPORTS. The first line there,
`apart`, means that the namespaces are ready. `started` with a pid means that PROGRAM was started.

It imports only the standard library, without `site`, because each trial starts two of these.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS = 0x00020000, 0x04000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

BELOW = ".below"
"""The name under which the former contents of a folder stay visible."""

PARENTS = ("/etc", "/run", "/var/lib", "/var/log", "/var/cache")
"""The parents of the folders `libvirt` that libvirtd is compiled to use."""

DEATH_S = 5.0
"""How many seconds killed processes may take to end. `kickbench clean` finds those that take longer
by the mark of the run; see `ownership`."""

APART = b"apart\n"
"""The first report."""

STARTED = b"started"
"""The first word of the report that PROGRAM was started."""

LONGEST_HOSTNAME = 63
"""How many characters a host name can have; see gethostname(2)."""

USER = "libvirt-qemu"
"""The user and the group that libvirtd needs to start, even if QEMU runs as root."""

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(failed: int, what: str) -> None:
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _mount(source: str, target: str, kind: str | None, flags: int = 0) -> None:
    encoded = None if kind is None else kind.encode()
    failed = _libc.mount(source.encode(), target.encode(), encoded, ctypes.c_ulong(flags), None)
    _checked(failed, f"mount on {target}")


def _empty(parent: Path) -> None:
    """Make an empty folder `libvirt` in `parent`, visible only in this mount namespace."""
    folder = parent / "libvirt"
    if not folder.is_dir():
        # Cover `parent` with a file system in memory, in which links lead to the former contents.
        before = os.open(parent, os.O_PATH | os.O_DIRECTORY)
        names = [each.name for each in parent.iterdir()]
        _mount("tmpfs", str(parent), "tmpfs")
        (parent / BELOW).mkdir()
        _mount(f"/proc/self/fd/{before}", str(parent / BELOW), None, MS_BIND | MS_REC)
        os.close(before)
        for name in names:
            (parent / name).symlink_to(f"{BELOW}/{name}")
        folder.mkdir()
    _mount("tmpfs", str(folder), "tmpfs")


def _add_user() -> None:
    """Add the user and the group of QEMU, visible only in this mount namespace."""
    for path, line in (
        (Path("/etc/passwd"), f"{USER}:x:64055:64055::/nonexistent:/usr/sbin/nologin\n"),
        (Path("/etc/group"), f"{USER}:x:64055:\n"),
    ):
        text = path.read_text()
        if f"\n{USER}:" not in text:
            ours = Path("/run/libvirt") / path.name
            ours.write_text(f"{text.rstrip()}\n{line}")
            _mount(str(ours), str(path), None, MS_BIND)


def enter(hostname: str, cache: str, configuration: dict[str, str]) -> None:
    """Move into the namespaces, and write libvirt's configuration there.

    :param configuration: the contents of the files of /etc/libvirt, by name.
    """
    _checked(_libc.unshare(CLONE_NEWNS | CLONE_NEWUTS), "unshare")
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    socket.sethostname(hostname)
    cached = os.open(cache, os.O_PATH | os.O_DIRECTORY)
    for parent in PARENTS:
        _empty(Path(parent))
    _mount(f"/proc/self/fd/{cached}", "/var/cache/libvirt", None, MS_BIND)
    os.close(cached)
    for name, text in configuration.items():
        Path("/etc/libvirt", name).write_text(text)
    _add_user()


def serve(reports: int, argv: list[str]) -> None:
    """Run the program until stdin ends, and reap everything."""
    _checked(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")
    os.set_inheritable(reports, False)
    os.write(reports, APART)
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    _start(reports, argv)
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap(reports)
        if 0 in ready:
            if not os.read(0, 4096):
                _kill_all()
                return
            _start(reports, argv)


def _start(reports: int, argv: list[str]) -> None:
    parent = os.getpid()
    if (pid := os.fork()) == 0:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == parent:
            os.execvp(argv[0], argv)  # noqa: S606  # a shell is not needed
        os._exit(1)
    os.write(reports, b"%s %d\n" % (STARTED, pid))


def _reap(reports: int) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended[0], os.waitstatus_to_exitcode(ended[1])
            os.write(reports, b"%d %d\n" % (pid, status))


def _kill_all() -> None:
    """Kill libvirtd and everything that it has started."""
    limit_s = time.monotonic() + DEATH_S
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with suppress(ChildProcessError):
        while time.monotonic() < limit_s:
            # The children of a killed process become children of this one.
            for pid in children.read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            time.sleep(0.001)


if __name__ == "__main__":
    enter(sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))
    serve(int(sys.argv[1]), sys.argv[5:])
