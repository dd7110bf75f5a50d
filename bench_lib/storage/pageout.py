# SPDX-License-Identifier: BSD-3-Clause
"""Pushing the memory of a guest out of this host's memory, to where it comes from.

Only the guest's memory is pushed out, because QEMU could not answer anything without its own. QEMU
is stopped by SIGSTOP meanwhile, so that its vCPUs touch no page before the store stalls.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench_lib import process, threads
from bench_lib.deadline import Deadline
from bench_lib.errors import StorageFailed
from bench_lib.ownership import Run
from bench_lib.settings import import_path
from bench_lib.storage import madvise


@dataclass(frozen=True)
class Area:
    """A part of a process's memory.

    :ivar start: its first address.
    :ivar size: its size in bytes.
    :ivar name: the file that is mapped there; "" for anonymous memory.
    :ivar resident: how many bytes of it are mapped to pages in memory.
    :ivar swapped: how many bytes of it are swapped out.
    """

    start: int
    size: int
    name: str
    resident: int
    swapped: int


_AREA = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) rw-[ps] \S+ \S+ \d+ *(.*)\n((?:[A-Z]\w+:.*\n)+)", re.MULTILINE
)
_SIZES = re.compile(r"^(Rss|Swap): +(\d+) kB$", re.MULTILINE)


def areas(smaps: str) -> list[Area]:
    """Return the writable areas in the text of a file /proc/PID/smaps."""
    found = []
    for start, end, name, rest in _AREA.findall(smaps):
        sizes = {each: int(kib) << 10 for each, kib in _SIZES.findall(rest)}
        first = int(start, 16)
        found.append(Area(first, int(end, 16) - first, name, sizes["Rss"], sizes["Swap"]))
    return found


@dataclass(frozen=True)
class GuestFile:
    """A file that is a guest's memory.

    :ivar path: the path by which QEMU opens it.
    :ivar name: the name that QEMU's mapping of it has; see `Area`.
    :ivar size: its size in bytes.
    :ivar first: where the part begins that is pushed out. It is what the guest's passes touch: if
        the host walks the guest's page tables itself, a missing one would be another fault path.
    """

    path: str
    name: str
    size: int
    first: int


@dataclass(frozen=True)
class StoppedGuest:
    """A QEMU that is stopped by SIGSTOP.

    :ivar fd: a descriptor of its process (pidfd).
    """

    pid: int
    fd: int

    def memory(self, size: int, name: str) -> Area:
        """Return the area that is the guest's memory.

        :param size: the size of the guest's memory in bytes.
        :param name: the name of the area; see `Area`.
        :raise StorageFailed: not exactly one area can be the guest's memory.
        """
        found = areas(Path(f"/proc/{self.pid}/smaps").read_text())
        fitting = [each for each in found if (each.size, each.name) == (size, name)]
        if len(fitting) != 1:
            raise StorageFailed(
                f"QEMU has {len(fitting)} mappings that may be its guest's memory, instead of one; "
                "use another size with --memory."
            )
        return fitting[0]

    def push_out(self, area: Area) -> None:
        """Push out as much of an area as the kernel can.

        :raise StorageFailed: the kernel refused.
        """
        try:
            madvise.push_out(self.fd, area.start, area.size)
        except OSError as error:
            raise StorageFailed(
                f"The guest's memory cannot be pushed out: {error.strerror}."
            ) from None

    async def push_out_file(self, run: Run, file: GuestFile, deadline: Deadline) -> None:
        """Push out the guest's memory to the file that it is; see `pusher`.

        :param run: the run that the program of `pusher` belongs to.
        :raise StorageFailed: some memory stayed, or the kernel refused something.
        :raise DeadlinePassed: the file system did not answer in time.
        """
        start = self.memory(file.size, file.name).start
        words = [self.pid, start, file.path, file.first, file.size - file.first]
        log = run.folder / f"{Path(file.path).parent.name}.push"
        with process.started(
            [sys.executable, "-S", "-m", "bench_lib.storage.pusher", *map(str, words)],
            env={**run.mark, "PYTHONPATH": import_path()},
            output=log,
        ) as child:
            status = await deadline.wait_for(child.exited(), "The end of the pushing out")
        printed = log.read_text(errors="replace").strip()
        log.unlink()
        if status != 0:
            raise StorageFailed(printed.splitlines()[-1] if printed else "The pushing out failed.")


@asynccontextmanager
async def stopped(pid: int, deadline: Deadline) -> AsyncIterator[StoppedGuest]:
    """Stop QEMU by SIGSTOP, and continue it when the context is left.

    :raise DeadlinePassed: it did not stop in time.
    :raise ProcessLookupError: it has ended.
    """

    def every_thread_stopped() -> bool:
        looks = threads.observe_all(pid, with_stacks=False)
        return all(each.state in threads.TRACED for each in looks)

    fd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(fd, signal.SIGSTOP)
        try:
            await deadline.poll(lambda: every_thread_stopped() or None, "Every thread stopped")
            yield StoppedGuest(pid, fd)
        finally:
            signal.pidfd_send_signal(fd, signal.SIGCONT)
    finally:
        os.close(fd)
