# SPDX-License-Identifier: BSD-3-Clause
"""Finding and ending what killed runs have left behind.

Nothing here waits for a lock of another process, or waits without a limit.
"""

from __future__ import annotations

import dataclasses
import os
import select
import shutil
import signal
from collections.abc import Sequence, Set
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from bench_lib import ownership, process
from bench_lib.deadline import Deadline
from bench_lib.errors import LeftoversRemain
from bench_lib.host import freezer
from bench_lib.network import link

LAST_BREATH_S = 10.0
"""Seconds in which all killed processes together have to end."""


@dataclass(frozen=True)
class Leftovers:
    """What dead runs have left behind.

    :ivar processes: pid and name of each process.
    :ivar cgroups: names of cgroups, in which processes may be frozen.
    """

    processes: tuple[tuple[int, str], ...]
    namespaces: tuple[str, ...]
    cgroups: tuple[str, ...]
    folders: tuple[Path, ...]

    def lines(self) -> list[str]:
        """Describe each leftover in a line."""
        return [
            *(f"process {pid} ({name})" for pid, name in self.processes),
            *(f"network namespace {name}" for name in self.namespaces),
            *(f"cgroup {name}" for name in self.cgroups),
            *(f"folder {folder}" for folder in self.folders),
        ]


def find(runtime: Path) -> Leftovers:
    """Find what dead runs have left behind. What belongs to a living run is not included.

    :raise HostError: the runtime folder cannot be used.
    """
    with ownership.registry(runtime):
        return _find(runtime)


def end(runtime: Path) -> Leftovers:
    """Kill the processes and delete the namespaces, cgroups and folders that `find` finds.

    A process that SIGKILL does not end does not prevent the rest: the names of its network
    namespaces and the folder of its run are deleted, and `find` finds the process without them.

    :return: what was found.
    :raise LeftoversRemain: something is still there; everything else has been removed.
    :raise HostError: the runtime folder cannot be used.
    """
    with ownership.registry(runtime):
        found = _find(runtime)
        # In version 1 of cgroups a frozen process does not die.
        freezer.thaw(*found.cgroups)
        killed = _kill([pid for pid, _ in found.processes], runtime)
        link.delete(*found.namespaces)
        freezer.remove(*found.cgroups)
        for folder in found.folders:
            shutil.rmtree(folder, ignore_errors=True)
        remaining = _find(runtime)
    if lines := remaining.lines():
        raise LeftoversRemain(
            f"This could not be ended: {', '.join(_why(remaining, killed))}. "
            "Free what it waits for, then run this again.",
            ended=tuple(line for line in found.lines() if line not in lines),
        )
    return found


def _why(remaining: Leftovers, killed: Set[int]) -> list[str]:
    """Describe each leftover in a line. For a killed process the line has why it is still there."""
    others = tuple(each for each in remaining.processes if each[0] not in killed)
    return [
        *(str(process.survivor(pid)) for pid, _ in remaining.processes if pid in killed),
        *dataclasses.replace(remaining, processes=others).lines(),
    ]


def _find(runtime: Path) -> Leftovers:
    return Leftovers(
        processes=tuple(
            (pid, process.name_of(pid))
            for pid in sorted(
                int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal()
            )
            if _is_left(pid, runtime)
        ),
        namespaces=tuple(name for name in link.existing() if _is_dead_runs(name, runtime)),
        cgroups=tuple(name for name in freezer.existing() if _is_dead_runs(name, runtime)),
        folders=tuple(ownership.dead_folders(runtime)),
    )


def _is_dead_runs(name: str, runtime: Path) -> bool:
    """Whether a dead run has made the name."""
    run_id = ownership.run_of_name(name)
    return run_id is not None and ownership.is_dead(runtime, run_id)


def _is_left(pid: int, runtime: Path) -> bool:
    """Whether a process is alive and belongs to a dead run."""
    run_id = ownership.run_of_process(pid)
    return run_id is not None and ownership.is_dead(runtime, run_id) and process.lives(pid)


def _kill(pids: Sequence[int], runtime: Path) -> set[int]:
    """Kill processes of dead runs, and wait for their end for up to `LAST_BREATH_S`.

    A pidfd keeps referring to its process even if the pid is reused. So the mark is read once more
    after the pidfd is open.

    :return: the processes that were sent SIGKILL.
    """
    killed = {}
    with ExitStack() as stack:
        for pid in pids:
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            stack.callback(os.close, pidfd)
            with suppress(ProcessLookupError, PermissionError):
                if _is_left(pid, runtime):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    killed[pid] = pidfd
        deadline = Deadline.after(LAST_BREATH_S)
        for pidfd in killed.values():
            select.select([pidfd], [], [], deadline.remaining_s)
    return set(killed)
