# SPDX-License-Identifier: BSD-3-Clause
"""Freezing processes with a cgroup of our own.

The kernel has two freezers. That of cgroup version 1 is a controller in a hierarchy of its own, and
a process in it does not even take SIGKILL before it is thawed. That of version 2 is a part of every
cgroup below the topmost one (since Linux 5.2). kickbench uses version 1 where the machine has a
hierarchy for it, as the software of such a machine does, else version 2.

A cgroup stays after the process that made it has died, and after the file system has been
unmounted. So its name is that of something of a run (see `ownership`), and `kickbench clean` finds
it by that name among the topmost cgroups.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import select
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench_lib import libc
from bench_lib.deadline import Deadline
from bench_lib.errors import FreezerMissing

_log = logging.getLogger(__name__)

SELF = Path("/proc/self")

# System calls that glibc has functions for only since 2.36. The numbers are the same on all
# architectures but Alpha (see Linux' scripts/syscall.tbl).
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_CLOEXEC = 1
"""FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC."""
_CREATE = 6
"""FSCONFIG_CMD_CREATE."""

_ESCAPED = re.compile(r"\\([0-7]{3})")
"""A special byte in a field of mountinfo; see proc(5)."""

EMPTY_LIMIT_S = 2.0
"""Seconds in which the kernel has to forget the last process of a cgroup. It takes milliseconds."""


@dataclass(frozen=True)
class Files:
    """How a version of cgroups freezes.

    :ivar command: the file that freezes and thaws.
    :ivar report: the file that shows whether all processes are frozen.
    :ivar frozen: what a line of `report` is then.
    """

    command: str
    freeze: bytes
    thaw: bytes
    report: str
    frozen: bytes


FILES = {
    1: Files("freezer.state", b"FROZEN", b"THAWED", "freezer.state", b"FROZEN"),
    2: Files("cgroup.freeze", b"1", b"0", "cgroup.events", b"frozen 1"),
}
"""By the version of cgroups."""


@dataclass(frozen=True)
class Hierarchy:
    """The hierarchy of cgroups in which this machine freezes processes.

    :ivar version: the version of cgroups: 1 or 2.
    :ivar top: a descriptor of the topmost folder.
    """

    version: int
    top: int

    def __str__(self) -> str:
        return f"freezer of cgroup version {self.version}"

    def thaw(self, name: str) -> None:
        """Thaw a cgroup. Do nothing if there is no such cgroup."""
        files = FILES[self.version]
        with suppress(FileNotFoundError):
            self._write(f"{name}/{files.command}", files.thaw)

    def remove(self, name: str, limit_s: float = EMPTY_LIMIT_S) -> bool:
        """Remove a cgroup whose processes have been moved, or have ended.

        :param limit_s: seconds in which the kernel has to forget its processes.
        :return: whether it is gone.
        """
        deadline = Deadline.after(limit_s)
        while True:
            try:
                os.rmdir(name, dir_fd=self.top)
            except FileNotFoundError:
                return True
            except OSError as error:
                if error.errno != errno.EBUSY or deadline.passed:
                    return False
                time.sleep(0.001)  # version 1 has no event for this
            else:
                return True

    def processes(self, name: str) -> list[int]:
        """Return the ids of the processes in a cgroup."""
        # Version 1 shows an older list to a descriptor that has been read before.
        fd = os.open(f"{name}/cgroup.procs", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.top)
        with open(fd) as listed:  # a descriptor
            return [int(pid) for pid in listed.read().split()]

    def _write(self, path: str, text: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.top)
        try:
            os.write(fd, text)
        finally:
            os.close(fd)


class Freezer:
    """A cgroup that freezes the processes in it.

    :ivar readable: a descriptor that select(2) finds readable when `frozen` may have changed; None
        if the kernel has no event for that (version 1).
    """

    def __init__(self, hierarchy: Hierarchy, name: str, stack: ExitStack) -> None:
        """Use the cgroup `name`, which exists.

        :param stack: the exit stack that closes what this opens.
        """

        def opened(path: str, flags: int) -> int:
            fd = os.open(f"{name}/{path}", flags | os.O_CLOEXEC, dir_fd=hierarchy.top)
            stack.callback(os.close, fd)
            return fd

        self._hierarchy, self._name = hierarchy, name
        self._files = FILES[hierarchy.version]
        self._command = opened(self._files.command, os.O_WRONLY)
        self._report = opened(self._files.report, os.O_RDONLY)
        self._processes = opened("cgroup.procs", os.O_WRONLY)
        self.readable: int | None = None
        if hierarchy.version != 1:
            # A descriptor of a cgroup's file always counts as readable, and a change of the file as
            # exceptional, which asyncio does not wait for. An epoll descriptor is readable only
            # while what it waits for is the case.
            events = select.epoll()
            stack.callback(events.close)
            events.register(self._report, select.EPOLLPRI)
            self.readable = events.fileno()

    def add(self, pid: int) -> None:
        """Move a process into the cgroup.

        :raise ProcessLookupError: there is no such process.
        """
        os.write(self._processes, b"%d" % pid)

    def freeze(self) -> None:
        """Start to freeze all processes in the cgroup."""
        os.write(self._command, self._files.freeze)

    def thaw(self) -> None:
        """Let all processes in the cgroup run again."""
        os.write(self._command, self._files.thaw)

    @property
    def frozen(self) -> bool:
        """Whether all processes in the cgroup are frozen."""
        return self._files.frozen in os.pread(self._report, 4096, 0).splitlines()

    def has(self, pid: int) -> bool:
        """Whether a process is still in the cgroup. An empty one counts as frozen in version 2."""
        return pid in self._hierarchy.processes(self._name)


@contextmanager
def hierarchy() -> Iterator[Hierarchy]:
    """Open the hierarchy of cgroups in which this machine freezes processes.

    :raise FreezerMissing: the machine has none.
    """
    version = 1 if _has_version_1() else 2
    top = _open_mounted(version)
    if top is None:
        top = _open_unmounted(version)
    try:
        yield Hierarchy(version, top)
    finally:
        os.close(top)


@contextmanager
def made(name: str) -> Iterator[tuple[Hierarchy, Freezer]]:
    """Make a cgroup, and thaw and remove it when the context is left.

    Processes that are still in it then are moved out of it.

    :param name: a name of a run (see `ownership`).
    :raise FreezerMissing: the machine has no freezer, or no cgroup can be made.
    """
    with hierarchy() as all_of_them, ExitStack() as stack:
        try:
            os.mkdir(name, 0o755, dir_fd=all_of_them.top)  # relative to a folder
        except OSError as error:
            raise _unusable(all_of_them.version, error) from None
        stack.callback(_removed, all_of_them, name)
        try:
            freezer = Freezer(all_of_them, name, stack)
        except FileNotFoundError as error:
            raise _unusable(all_of_them.version, error) from None
        stack.callback(_empty, all_of_them, name)
        stack.callback(freezer.thaw)
        yield all_of_them, freezer


def _removed(hierarchy: Hierarchy, name: str) -> None:
    if not hierarchy.remove(name):
        _log.warning("Left to `kickbench clean`: cgroup %s, which still has a process.", name)


def existing() -> list[str]:
    """Return the names of the topmost cgroups; nothing if this user sees none."""
    try:
        with hierarchy() as found:
            return sorted(each.name for each in os.scandir(found.top) if each.is_dir())
    except (FreezerMissing, OSError):
        return []


def thaw(*names: str) -> None:
    """Thaw those of the cgroups that exist."""
    if names:
        with hierarchy() as found:
            for name in names:
                found.thaw(name)


def remove(*names: str) -> None:
    """Remove those of the cgroups whose processes have ended."""
    if names:
        with hierarchy() as found:
            for name in names:
                found.remove(name)


def _empty(hierarchy: Hierarchy, name: str) -> None:
    """Move the processes of a cgroup into the topmost one."""
    for pid in hierarchy.processes(name):
        with suppress(ProcessLookupError):
            hierarchy._write("cgroup.procs", b"%d" % pid)


def check() -> str:
    """Check that processes can be frozen here, and return how.

    :raise FreezerMissing: they cannot.
    """
    with hierarchy() as found:
        try:
            # Opening it shows whether the file system may be written to.
            os.close(os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=found.top))
        except OSError as error:
            raise _unusable(found.version, error) from None
        return str(found)


def _unusable(version: int, error: OSError) -> FreezerMissing:
    return FreezerMissing(
        f"No process can be frozen with cgroup version {version} here: {error.strerror}"
        f"{f' ({error.filename})' if error.filename else ''}. This needs the rights of root on the "
        "host's cgroups, and for version 2 Linux 5.2 or later; run kickbench outside of the "
        "container, or make the request in a lab (--kernel)."
    )


def _has_version_1() -> bool:
    """Whether a hierarchy of version 1 has the freezer."""
    try:
        lines = (SELF / "cgroup").read_text().splitlines()
    except OSError:
        return False
    return any("freezer" in line.split(":")[1].split(",") for line in lines)


def _open_mounted(version: int) -> int | None:
    """Open the topmost folder of a hierarchy where it is mounted; None if it is not mounted."""
    for line in (SELF / "mountinfo").read_text().splitlines():
        first, _, last = line.partition(" - ")
        kind, _, options = last.split(" ", 2)
        if version == 1:
            fits = kind == "cgroup" and "freezer" in options.split(",")
        else:
            fits = kind == "cgroup2"
        if fits:
            place = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), first.split()[4])
            with suppress(OSError):
                return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return None


def _open_unmounted(version: int) -> int:
    """Open the topmost folder of version 2 through a mount that no path leads to.

    The mount ends with its last descriptor, so a killed run leaves none. This must not be done
    while version 2 is mounted elsewhere, because a second mount resets the options of the first.

    :raise FreezerMissing: this kernel does not have it.
    """
    if version == 1:  # it is mounted, but in another mount namespace
        raise _unusable(version, OSError(errno.ENOENT, "it is not mounted here"))
    try:
        filesystem = _syscall("fsopen", _SYS_FSOPEN, b"cgroup2", _CLOEXEC)
        try:
            _syscall("fsconfig", _SYS_FSCONFIG, filesystem, _CREATE, None, None, 0)
            mount = _syscall("fsmount", _SYS_FSMOUNT, filesystem, _CLOEXEC, 0)
        finally:
            os.close(filesystem)
        try:
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
        finally:
            os.close(mount)
    except OSError as error:
        raise _unusable(version, error) from None


def _syscall(name: str, number: int, *arguments: object) -> int:
    result: int = libc.LIBC.syscall(number, *arguments)
    if result < 0:
        raise libc.error(name)
    return result
