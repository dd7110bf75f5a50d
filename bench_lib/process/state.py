# SPDX-License-Identifier: BSD-3-Clause
"""What the kernel shows of a process that SIGKILL has not ended."""

from __future__ import annotations

import os
import select
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Survivor:
    """A process that SIGKILL has not ended.

    :ivar name: as in /proc/PID/comm.
    :ivar dead: whether it only waits for being reaped.
    :ivar wchan: the function of the kernel that a thread of it sleeps in, where shown.
    """

    pid: int
    name: str
    dead: bool
    wchan: str | None

    def __str__(self) -> str:
        if self.dead:
            why = "it is dead, but has not been reaped, because another process traces it"
        elif self.wchan is None:
            why = "it is not seen to sleep"
        else:
            why = f"it sleeps in {self.wchan}"
        return f"process {self.pid} ({self.name}) survives SIGKILL; {why}"


def name_of(pid: int) -> str:
    """The name of a process, which is read without waiting for any lock that it holds."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone"


def survivor(pid: int) -> Survivor:
    """What keeps a process that was killed.

    Reads nothing that waits for a lock of the process: not even /proc/PID/stat, which on Linux 6.18
    waits for a process that is stuck in execve(2).
    """
    return Survivor(pid, name_of(pid), not lives(pid), _sleeps_in(pid))


def lives(pid: int) -> bool:
    """Whether a thread of the process is not dead; its first may be, and another one keep it."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        return not select.select([pidfd], [], [], 0)[0]
    finally:
        os.close(pidfd)


def _sleeps_in(pid: int) -> str | None:
    with suppress(OSError):
        for task in sorted(Path(f"/proc/{pid}/task").iterdir()):
            # Of a thread that runs, that is dead, or that we may not look into, this is "0".
            wchan = (task / "wchan").read_text()
            if wchan != "0":
                return wchan or None
    return None
