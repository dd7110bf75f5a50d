# SPDX-License-Identifier: BSD-3-Clause
"""What the kernel shows of a process without waiting for the process's locks."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Survivor:
    """A process that SIGKILL has not ended.

    :ivar name: the name in /proc/PID/comm.
    :ivar dead: whether the process is dead and only waits to be reaped.
    :ivar wchan: the kernel function that one of its threads sleeps in; None if the kernel shows
        none.
    """

    pid: int
    name: str
    dead: bool
    wchan: str | None

    def __str__(self) -> str:
        if self.dead:
            why = "it is dead, but has not been reaped, because another process traces it"
        elif self.wchan is None:
            why = "it was not seen asleep"
        else:
            why = f"it sleeps in {self.wchan}"
        return f"process {self.pid} ({self.name}) survives SIGKILL; {why}"


def name_of(pid: int) -> str:
    """Return the name of a process, or "gone" if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone"


def survivor(pid: int) -> Survivor:
    """Describe a process that was killed and is still there.

    This does not read /proc/PID/stat, because on Linux 6.18 that waits for a process that is stuck
    in execve(2).
    """
    return Survivor(pid, name_of(pid), not lives(pid), _sleeps_in(pid))


def lives(pid: int) -> bool:
    """Whether any thread of the process lives. The first thread may be dead while another lives."""
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
            # The kernel shows "0" for a thread that runs or is dead, or if we lack the right.
            wchan = (task / "wchan").read_text()
            if wchan != "0":
                return wchan or None
    return None


def ended(status: int) -> str:
    """How a process ended, as part of a sentence.

    :param status: negative for the signal that ended the process, as in subprocess.
    """
    if status >= 0:
        return f"exited with status {status}"
    names = {each.value: each.name for each in signal.Signals}
    return f"was ended by {names.get(-status, f'signal {-status}')}"
