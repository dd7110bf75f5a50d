# SPDX-License-Identifier: BSD-3-Clause
"""A cgroup whose memory.high is below what the guest needs, so that the kernel slows QEMU down.

Nothing can be reclaimed from the guest, because there is no swap device. So each thread of QEMU
that takes more memory sleeps, for at most two seconds at a time
(__mem_cgroup_handle_over_high() of mm/memcontrol.c).
"""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from bench_lib.deadline import Deadline
from bench_lib.errors import StorageFailed
from bench_lib.ownership import Run
from bench_lib.storage import mounts
from bench_lib.storage.store import Store

SHARE = 4
"""The part of the guest's memory that fits below the limit: one in four bytes."""


class ThrottlingCgroup(Store):
    """A cgroup for QEMU."""

    mechanism = "memory.high"

    def __init__(self, run: Run, name: str, size_mib: int, stack: AsyncExitStack) -> None:
        """Make the cgroup.

        :param name: a name that is unique on this host.
        :param size_mib: the size of the guest's memory.
        :param stack: the exit stack that removes the cgroup.
        :raise StorageFailed: the kernel refused something.
        :raise ToolFailed: the hierarchy of cgroups cannot be mounted.
        """
        undo = stack.enter_context(ExitStack())
        root = run.folder / name
        mounts.mount("cgroup2", "cgroup2", root, undo)
        _write(root / "cgroup.subtree_control", "+memory")
        undo.callback(mounts.quietly, lambda: _write(root / "cgroup.subtree_control", "-memory"))
        self._group = root / "guest"
        self._group.mkdir()
        undo.callback(mounts.quietly, self._remove)
        _write(self._group / "memory.high", f"{(size_mib << 20) // SHARE}")
        self.description = f"anonymous memory, of which memory.high allows 1/{SHARE}"

    def _remove(self) -> None:
        try:
            self._group.rmdir()
        except OSError as error:
            raise StorageFailed(
                f"The cgroup of the guest cannot be removed: {error.strerror}."
            ) from None

    async def stall(self, pid: int, deadline: Deadline) -> None:
        """Put QEMU into the cgroup, which then counts what QEMU takes from now on."""
        _write(self._group / "cgroup.procs", str(pid))

    def release(self) -> None:
        _write(self._group / "memory.high", "max")


def _write(path: Path, text: str) -> None:
    """Write to a file of a cgroup.

    :raise StorageFailed: the kernel refused it.
    """
    try:
        path.write_text(text)
    except OSError as error:
        raise StorageFailed(
            f"The kernel refused `{text}` in {path.name}: {error.strerror}. The lab needs a kernel "
            "with the memory controller of cgroups."
        ) from None
