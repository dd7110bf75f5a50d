# SPDX-License-Identifier: BSD-3-Clause
"""What a run starts belongs to it: named after it, marked with it, findable after its death.

A run has an id and a folder under the runtime folder, on which it holds a lock for as long as
it lives. The kernel drops that lock whichever way the run ends, so a folder without a holder is
a dead run's, and so is everything that carries the run's id: network namespaces by their name,
processes by a limit.

That limit is RLIMIT_RSS, which Linux has only stored since 2.4.30 (getrlimit(2)). Whatever a
process starts inherits it, descriptors closed or not, and the kernel shows it in /proc/PID/limits
for as long as the process is there at all, also when its first thread has ended and another one
cannot. An environment is gone by then, and before that, reading it waits for the lock of the
process's memory, which the processes that have to be found here may hold for ever.
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
"""The environment variable that says to what starts a process which run that is for. It is an id,
and becomes the process's RLIMIT_RSS in KiB; see `process`."""

_LIMIT = re.compile(r"^Max resident set +([0-9]+) ", re.MULTILINE)

PREFIX = "kickbench"
"""What every name that a run gives to something begins with."""

RUN_ID = re.compile(r"[89a-f][0-9a-f]{11}")
"""At least 2^47, which is a limit that nobody sets: 128 PiB."""

HOME_DIGITS = 6
"""How many digits of an id say which runtime folder it is of; the others are random."""

NAME = re.compile(rf"{PREFIX}-({RUN_ID.pattern})-[0-9]+-(?:source|destination)")


@dataclass(frozen=True)
class Run:
    """A living run. :ivar folder: for its files; gone with the run."""

    id: str
    folder: Path

    def name(self, seq: int, role: str) -> str:
        """A name for something of trial `seq`, unique on this host."""
        return f"{PREFIX}-{self.id}-{seq}-{role}"

    @property
    def mark(self) -> dict[str, str]:
        """What the environment of each of the run's processes has to hold when it starts."""
        return {MARK: self.id}


def _home(runtime: Path) -> str:
    """How ids of runs begin that have this runtime folder, which exists.

    Namespaces and processes are the whole host's, locks only their folder's: this tells what
    another runtime folder answers for. It is where the folder lies, by number and not by path,
    because a container or a chroot has another folder of the same path. The folder's own inode is
    no part of it, so that what dead runs have left is found after the folder has been deleted.
    """
    folder = runtime.resolve()
    above = folder.parent.stat()
    place = f"{folder.stat().st_dev} {above.st_dev} {above.st_ino} {folder.name}"
    number = int.from_bytes(hashlib.sha256(place.encode()).digest()[: HOME_DIGITS // 2])
    return f"{number | 1 << (4 * HOME_DIGITS - 1):x}"


def run_of_process(pid: int) -> str | None:
    """The id of the run that a process belongs to, or None if it belongs to none."""
    try:
        limits = Path(f"/proc/{pid}/limits").read_text()
    except OSError:  # gone by now
        return None
    if (limit := _LIMIT.search(limits)) is None:  # unlimited, as nearly everywhere
        return None
    run_id = f"{int(limit[1]) // 1024:012x}"
    return run_id if RUN_ID.fullmatch(run_id) else None


def run_of_name(name: str) -> str | None:
    """The id of the run that `name` was made by, or None if no run made it."""
    match = NAME.fullmatch(name)
    return match[1] if match else None


@contextmanager
def registry(runtime: Path) -> Iterator[None]:
    """Held while a run's folder is made and while the dead are looked for.

    Without it a folder just made and not yet locked would look like a dead run's.
    """
    try:
        runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = lock.take(runtime / "registry.lock", os.O_RDWR | os.O_CREAT, wait=True)
    except OSError as error:
        raise _unusable(runtime, error) from None
    assert fd is not None
    try:
        yield
    finally:
        os.close(fd)


def _unusable(runtime: Path, error: OSError) -> HostError:
    return HostError(
        f"The runtime folder {runtime} cannot be used ({error.strerror}): "
        "run as root, or set KICKBENCH_RUNTIME to a folder of yours with some space."
    )


@contextmanager
def measuring(runtime: Path) -> Iterator[Run]:
    """Be the one run that measures on this host.

    Two runs at once would be in each other's timings, so the second is refused.

    :raise HostBusy: another run is measuring.
    """
    with registry(runtime):
        fd = _measuring_lock(runtime)
        try:
            os.ftruncate(fd, 0)
            os.write(fd, f"{os.getpid()}\n".encode())
            run_id = _home(runtime) + secrets.token_hex((12 - HOME_DIGITS) // 2)
            folder = runtime / run_id
            folder.mkdir(mode=0o700)
            folder_fd = lock.take(folder, lock.FOLDER, wait=True)
        except OSError as error:
            os.close(fd)
            raise _unusable(runtime, error) from None
    assert folder_fd is not None
    try:
        yield Run(run_id, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(folder_fd)
        os.close(fd)


def refuse_if_busy(runtime: Path) -> None:
    """Refuse while another run measures, before anything is begun.

    :raise HostBusy: one does.
    """
    with registry(runtime):
        os.close(_measuring_lock(runtime))


def _measuring_lock(runtime: Path) -> int:
    path = runtime / "measuring.lock"
    fd = lock.take(path, os.O_RDWR | os.O_CREAT, wait=False)
    if fd is None:
        raise HostBusy(
            f"Another run (process {path.read_text().strip()}) is measuring on this host; "
            "wait for its end, for two at once would spoil each other's timings."
        )
    return fd


def is_dead(runtime: Path, run_id: str) -> bool:
    """Whether the run had this runtime folder and is no more. Call with the registry held."""
    return run_id.startswith(_home(runtime)) and not _is_locked(runtime / run_id)


def dead_folders(runtime: Path) -> list[Path]:
    """Folders of runs that are no more. Call with the registry held."""
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
