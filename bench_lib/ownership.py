"""What a run starts belongs to it: named after it, marked with it, findable after its death.

A run has an id and a folder under the runtime folder, on which it holds a lock for as long as
it lives. The kernel drops that lock whichever way the run ends, so a folder without a holder is
a dead run's, and so is everything that carries the run's id: network namespaces by their name,
processes by an environment variable.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench_lib.errors import HostBusy, HostError

MARK = "KICKBENCH_RUN"
"""The environment variable that marks a process as a run's; its value is the run's id."""

PREFIX = "kickbench"
"""What every name that a run gives to something begins with."""

RUN_ID = re.compile(r"[0-9a-f]{12}")
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
        """What the environment of each of the run's processes has to hold."""
        return {MARK: self.id}


def _home(runtime: Path) -> str:
    """How ids of runs begin that have this runtime folder.

    Namespaces and processes are the whole host's, locks only their folder's: this tells what
    another runtime folder answers for.
    """
    return hashlib.sha256(str(runtime.resolve()).encode()).hexdigest()[:4]


def run_of_name(name: str) -> str | None:
    """The id of the run that `name` was made by, or None if no run made it."""
    match = NAME.fullmatch(name)
    return match[1] if match else None


def _lock(path: Path, flags: int, *, wait: bool) -> int | None:
    """A descriptor that holds `path` locked, or None if someone else does."""
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def registry(runtime: Path) -> Iterator[None]:
    """Held while a run's folder is made and while the dead are looked for.

    Without it a folder just made and not yet locked would look like a dead run's.
    """
    try:
        runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = _lock(runtime / "registry.lock", os.O_RDWR | os.O_CREAT, wait=True)
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
            run_id = _home(runtime) + secrets.token_hex(4)
            folder = runtime / run_id
            folder.mkdir(mode=0o700)
            folder_fd = _lock(folder, os.O_RDONLY | os.O_DIRECTORY, wait=True)
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
    fd = _lock(path, os.O_RDWR | os.O_CREAT, wait=False)
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
        fd = _lock(folder, os.O_RDONLY | os.O_DIRECTORY, wait=False)
    except FileNotFoundError:
        return False
    if fd is None:
        return True
    os.close(fd)
    return False
