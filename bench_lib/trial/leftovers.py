"""Finds and ends what runs that were killed have left behind."""

from __future__ import annotations

import os
import select
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench_lib import ownership
from bench_lib.errors import LeftoversRemain
from bench_lib.network import link

LAST_BREATH_MS = 10_000
"""How long a killed process may take to be gone."""


@dataclass(frozen=True)
class Leftovers:
    """What dead runs have left. :ivar processes: pid and name."""

    processes: tuple[tuple[int, str], ...]
    namespaces: tuple[str, ...]
    folders: tuple[Path, ...]

    def lines(self) -> list[str]:
        """One a thing, for people."""
        return [
            *(f"process {pid} ({name})" for pid, name in self.processes),
            *(f"network namespace {name}" for name in self.namespaces),
            *(f"folder {folder}" for folder in self.folders),
        ]


def find(runtime: Path) -> Leftovers:
    """What belongs to runs that are no more; nothing of a living one.

    :raise HostError: the runtime folder cannot be used.
    """
    with ownership.registry(runtime):
        return _find(runtime)


def end(runtime: Path) -> Leftovers:
    """Kill, delete and remove what `find` finds; what that was.

    :raise LeftoversRemain: something is still there.
    :raise HostError: the runtime folder cannot be used.
    """
    with ownership.registry(runtime):
        found = _find(runtime)
        for pid, _ in found.processes:
            _kill(pid, runtime)
        for name in found.namespaces:
            link.delete(name)
        for folder in found.folders:
            shutil.rmtree(folder, ignore_errors=True)
        if remaining := _find(runtime).lines():
            raise LeftoversRemain(f"This could not be ended: {', '.join(remaining)}.")
    return found


def _find(runtime: Path) -> Leftovers:
    return Leftovers(
        processes=tuple(
            (pid, _name(pid))
            for pid, run_id in _marked_processes()
            if ownership.is_dead(runtime, run_id)
        ),
        namespaces=tuple(
            name
            for name in link.existing()
            if (run_id := ownership.run_of_name(name)) and ownership.is_dead(runtime, run_id)
        ),
        folders=tuple(ownership.dead_folders(runtime)),
    )


def _marked_processes() -> Iterator[tuple[int, str]]:
    """Every process that carries the mark of a run, with the run's id."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            pid = int(folder.name)
            if run_id := _mark(pid):
                yield pid, run_id


def _mark(pid: int) -> str | None:
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # gone by now, or another user's, whom we could not end anyhow
        return None
    prefix = f"{ownership.MARK}=".encode()
    for entry in environ.split(b"\0"):
        if entry.startswith(prefix):
            run_id = entry.removeprefix(prefix).decode(errors="replace")
            return run_id if ownership.RUN_ID.fullmatch(run_id) else None
    return None


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone"


def _kill(pid: int, runtime: Path) -> None:
    """Kill a dead run's process and wait for its end.

    The pidfd keeps its number from being reused, and the mark is read again once it is held.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        run_id = _mark(pid)
        if run_id is not None and ownership.is_dead(runtime, run_id):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            waiting = select.poll()
            waiting.register(pidfd, select.POLLIN)
            waiting.poll(LAST_BREATH_MS)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)
