# SPDX-License-Identifier: BSD-3-Clause
"""Mark everything that a run starts, so that kickbench finds it after the run has died.

A run has an id and a folder under the runtime folder, and it locks that folder while it lives. The
kernel drops the lock however the run ends. So a folder that is not locked belongs to a dead run.
The same is true of everything that carries the run's id: network namespaces carry it in their
names, processes in a resource limit.

The limit is RLIMIT_RSS, which Linux has stored but not enforced since 2.4.30 (getrlimit(2)). Child
processes inherit it, even if they close all descriptors. The kernel shows it in /proc/PID/limits as
long as the process exists, even if its first thread has ended and another thread cannot end. The
environment would not do: it is gone once the first thread has ended, and before that, reading it
waits for the process's mmap_lock, which the processes that have to be found may hold for ever.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench_lib import lock
from bench_lib.errors import HostBusy, HostError

MARK = "KICKBENCH_RUN"
"""The environment variable that holds the run's id while a process of the run is started. `process`
turns the id into the process's RLIMIT_RSS, in KiB."""

_LIMIT = re.compile(r"^Max resident set +([0-9]+) ", re.MULTILINE)

_SHARED = b"shared\n"
"""What the lock of measuring has instead of a process if several runs share it."""

PREFIX = "kickbench"
"""The prefix of every name that a run makes."""

RUN_ID = re.compile(r"[89a-f][0-9a-f]{11}")
"""The form of an id. An id is at least 2^47, so the limit is at least 128 PiB, and no administrator
sets such a limit."""

HOME_DIGITS = 6
"""How many leading digits of an id identify its runtime folder; the other digits are random."""

NAME = re.compile(rf"{PREFIX}-({RUN_ID.pattern})-[0-9]+-(?:source|destination)")


@dataclass(frozen=True)
class Run:
    """A living run.

    :ivar folder: the run's own folder, which is deleted when the run ends.
    """

    id: str
    folder: Path

    def name(self, seq: int, role: str) -> str:
        """Make a name for something of trial `seq`, unique on this host."""
        return f"{PREFIX}-{self.id}-{seq}-{role}"

    @property
    def mark(self) -> dict[str, str]:
        """The environment variables with which each process of the run has to be started."""
        return {MARK: self.id}


def _home(runtime: Path) -> str:
    """Return the leading digits of the ids of runs in this runtime folder, which has to exist.

    Namespaces and processes are visible on the whole host, but locks only show which runs of their
    own runtime folder live. So an id shows which runtime folder it belongs to. The digits depend on
    the device and inode of the parent folder, not on the path, because a container or a chroot has
    another folder with the same path. They do not depend on the inode of the folder itself, so that
    leftovers of dead runs are found after the folder has been deleted and made again.
    """
    folder = runtime.resolve()
    above = folder.parent.stat()
    place = f"{folder.stat().st_dev} {above.st_dev} {above.st_ino} {folder.name}"
    number = int.from_bytes(hashlib.sha256(place.encode()).digest()[: HOME_DIGITS // 2])
    return f"{number | 1 << (4 * HOME_DIGITS - 1):x}"


def run_of_process(pid: int) -> str | None:
    """Return the id of the run that a process belongs to, or None if it belongs to none."""
    try:
        limits = Path(f"/proc/{pid}/limits").read_text()
    except OSError:  # the process has ended
        return None
    if (limit := _LIMIT.search(limits)) is None:  # "unlimited", the default
        return None
    run_id = f"{int(limit[1]) // 1024:012x}"
    return run_id if RUN_ID.fullmatch(run_id) else None


def run_of_name(name: str) -> str | None:
    """Return the id of the run that made `name`, or None if no run did."""
    match = NAME.fullmatch(name)
    return match[1] if match else None


@contextmanager
def registry(runtime: Path) -> Iterator[None]:
    """Hold the lock under which a run's folder is made and dead runs are looked for.

    Without it, a folder that was just made and is not locked yet would look like a dead run's.

    :raise HostError: the runtime folder cannot be used.
    """
    try:
        runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = lock.take(runtime / "registry.lock", os.O_RDWR | os.O_CREAT, wait=True)
    except OSError as error:
        raise unusable(runtime, error) from None
    assert fd is not None
    try:
        yield
    finally:
        os.close(fd)


def unusable(runtime: Path, error: OSError) -> HostError:
    """The error for a runtime folder that cannot be used."""
    return HostError(
        f"The runtime folder {runtime} cannot be used ({error.strerror}): "
        "run as root, or set KICKBENCH_RUNTIME to a folder that you can write to."
    )


@contextmanager
def measuring(runtime: Path, *, shared: bool = False) -> Iterator[Run]:
    """Be the only run that measures on this host, or one of several that share it.

    Two runs at once would distort each other's timings, so the second is refused.

    :param shared: whether runs that share the host as well may measure at the same time, as several
        labs do that a fleet has given to this host.
    :raise HostBusy: another run is measuring.
    :raise HostError: the runtime folder cannot be used.
    """
    with registry(runtime):
        fd = _measuring_lock(runtime, shared=shared)
        try:
            os.ftruncate(fd, 0)
            os.write(fd, _SHARED if shared else f"{os.getpid()}\n".encode())
            run_id = _home(runtime) + secrets.token_hex((12 - HOME_DIGITS) // 2)
            folder = runtime / run_id
            folder.mkdir(mode=0o700)
            folder_fd = lock.take(folder, lock.FOLDER, wait=True)
        except OSError as error:
            os.close(fd)
            raise unusable(runtime, error) from None
    assert folder_fd is not None
    try:
        yield Run(run_id, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(folder_fd)
        os.close(fd)


def refuse_if_busy(runtime: Path) -> None:
    """Refuse to go on while another run measures. Call this before anything is started.

    :raise HostBusy: another run is measuring.
    :raise HostError: the runtime folder cannot be used.
    """
    with registry(runtime):
        os.close(_measuring_lock(runtime))


def _measuring_lock(runtime: Path, *, shared: bool = False) -> int:
    path = runtime / "measuring.lock"
    try:
        fd = lock.take(path, os.O_RDWR | os.O_CREAT, wait=False, shared=shared)
        if fd is not None:
            return fd
        holder = path.read_bytes()
    except OSError as error:
        raise unusable(runtime, error) from None
    who = (
        "The labs that a fleet has given to this host are"
        if holder == _SHARED
        else f"Another run (process {holder.decode(errors='replace').strip()}) is"
    )
    raise HostBusy(
        f"{who} measuring on this host; "
        "wait for the end, because two runs at once would distort each other's timings."
    )


def is_dead(runtime: Path, run_id: str) -> bool:
    """Whether the run used this runtime folder and has ended. Call with the registry held."""
    return run_id.startswith(_home(runtime)) and not _is_locked(runtime / run_id)


def dead_folders(runtime: Path) -> list[Path]:
    """Return the folders of dead runs. Call with the registry held."""
    return [folder for folder in _folders(runtime) if not _is_locked(folder)]


def _folders(runtime: Path) -> list[Path]:
    return sorted(
        path for path in runtime.iterdir() if RUN_ID.fullmatch(path.name) and path.is_dir()
    )


def _is_locked(folder: Path) -> bool:
    try:
        fd = lock.take(folder, lock.FOLDER, wait=False)
    except FileNotFoundError:
        return False
    if fd is None:
        return True
    os.close(fd)
    return False
