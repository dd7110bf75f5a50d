# SPDX-License-Identifier: BSD-3-Clause
"""The process that a libvirtd runs under: namespaces of its own, and an init for its orphans.

    python -I -S apart.py REPORTS HOSTNAME CACHE CONFIGURATION PROGRAM [ARGUMENT...]

Moves into mount and UTS namespaces in which every folder of libvirt's is empty, except its cache.
So a libvirtd that the host runs itself is neither seen nor touched. Starts PROGRAM there, and
starts it again whenever a line arrives on stdin.

The QEMU of a guest is an orphan. Whoever reaps it matters: libvirtd takes a dead QEMU for a living
one until then, and looks again only every 0.2 s. This process reaps at once, as systemd does, and
writes a line with the pid and the exit status to the descriptor REPORTS. The first line there is
`apart`, and means that the namespaces are as they should be. `started` with a pid means that
PROGRAM was started.

Only the standard library is imported, and no `site`, because each trial starts two of these.
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
"""In a folder that had no room for libvirt's: what was there before."""

PARENTS = ("/etc", "/run", "/var/lib", "/var/log", "/var/cache")
"""Of the folders `libvirt` that libvirtd is compiled to use."""

DEATH_S = 5.0
"""How long what was killed may take to be gone. `kickbench clean` finds what is not gone by then,
by the mark of the run; see `ownership`."""

APART = b"apart\n"
"""The first report."""

STARTED = b"started"
"""The first word of the report that PROGRAM was started."""

LONGEST_HOSTNAME = 63
"""Characters of a host name; gethostname(2)."""

USER = "libvirt-qemu"
"""libvirtd does not start without this user and group, also when QEMU is to run as root."""

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
    """Give `parent` an empty folder `libvirt`, in this mount namespace alone."""
    folder = parent / "libvirt"
    if not folder.is_dir():
        # What is in `parent` is kept reachable by links, so that the folder can be added in memory.
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
    """Make sure of the user and the group of QEMU, as the host's other programs do not see it."""
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
    """Move into the namespaces, and put libvirt's files there.

    :param configuration: contents by names, for /etc/libvirt.
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
            os.execvp(argv[0], argv)  # noqa: S606  # there is no shell to be had
        os._exit(1)
    os.write(reports, b"%s %d\n" % (STARTED, pid))


def _reap(reports: int) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended[0], os.waitstatus_to_exitcode(ended[1])
            os.write(reports, b"%d %d\n" % (pid, status))


def _kill_all() -> None:
    """Kill libvirtd, and what it has started, until nothing is left that dies."""
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
