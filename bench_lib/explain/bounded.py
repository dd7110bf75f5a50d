# SPDX-License-Identifier: BSD-3-Clause
"""Read /proc in a child process, which is killed if the kernel makes it wait.

Any file of another process in /proc may block for as long as a stuck thread of that process holds a
lock: mmap_lock for the command line, exec_update_lock (during execve) even for the state. SIGKILL
ends such a wait, so a child does the reading.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import traceback
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bench_lib.deadline import Deadline

T = TypeVar("T")

_LENGTH = struct.Struct("<I")


class Blocked(Enum):
    """The result for a process that the kernel did not show in time."""

    BLOCKED = "blocked"


BLOCKED = Blocked.BLOCKED

PATIENCE = 15
"""How many times the limit a child may take as long as it does not wait in the kernel."""


def each(
    pids: Sequence[int], read: Callable[[int], T], kind: Any, limit_s: float
) -> Iterator[tuple[int, T | Blocked]]:
    """Call `read` with each process id in a child, and yield the ids with the results.

    :param kind: the type of the results, for msgspec.
    :param limit_s: seconds that a child may take per process. After them, a child that waits in the
        kernel is killed, and another one goes on with the next process. A child that is only slow,
        because the machine is busy, may take `PATIENCE` times as long.
    """
    left = list(pids)
    while left:
        with _Child(left, read) as child:
            while left:
                data = child.next(limit_s)
                yield (
                    left.pop(0),
                    BLOCKED if data is None else msgspec.msgpack.decode(data, type=kind),
                )
                if data is None:
                    break


class _Child:
    """A child process that reads, and writes the results to a pipe."""

    def __init__(self, pids: Sequence[int], read: Callable[[int], object]) -> None:
        self._output, theirs = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _serve(theirs, pids, read)
        os.close(theirs)

    def __enter__(self) -> _Child:
        return self

    def next(self, limit_s: float) -> bytes | None:
        """Return the next result, or None if there was none within the limit.

        :raise RuntimeError: the child failed; its traceback is on stderr.
        """
        deadline = Deadline.after(PATIENCE * limit_s)
        length = self._read(_LENGTH.size, limit_s, deadline)
        return None if length is None else self._read(_LENGTH.unpack(length)[0], limit_s, deadline)

    def _read(self, size: int, limit_s: float, deadline: Deadline) -> bytes | None:
        data = b""
        while len(data) < size:
            if not select.select([self._output], [], [], limit_s)[0]:
                if deadline.passed or self._waits():
                    return None
                continue
            more = os.read(self._output, size - len(data))
            if not more:
                raise RuntimeError("The child that reads /proc has failed.")
            data += more
        return data

    def _waits(self) -> bool:
        """Whether the child sleeps in the kernel in state D."""
        stat = Path(f"/proc/{self._pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "D"

    def __exit__(self, *_: object) -> None:
        """Kill the child. If not even that ends it, leave it to init instead of waiting for it."""
        os.close(self._output)
        os.kill(self._pid, signal.SIGKILL)
        pidfd = os.pidfd_open(self._pid)
        ended = select.select([pidfd], [], [], 0.5)[0]
        os.close(pidfd)
        if ended:
            os.waitpid(self._pid, 0)


def _serve(output: int, pids: Sequence[int], read: Callable[[int], object]) -> None:
    """Run the child. This does not return."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for pid in pids:
            data = msgspec.msgpack.encode(read(pid))
            data = _LENGTH.pack(len(data)) + data
            while data:
                data = data[os.write(output, data) :]
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        os._exit(1)
    # _exit() skips the clean-up handlers, which the child has inherited from its parent.
    os._exit(0)
