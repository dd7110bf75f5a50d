# SPDX-License-Identifier: BSD-3-Clause
"""Swapped-out memory on a swap device that stops answering.

The device passes everything to a RAM disk. While it is suspended, it keeps back all that is read
from it, so nothing is lost.
"""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import AsyncExitStack
from pathlib import Path

from bench_lib import libc
from bench_lib.deadline import Deadline
from bench_lib.errors import StorageFailed
from bench_lib.host.needs import SWAP_MODULES
from bench_lib.process import run_tool
from bench_lib.record import Backing
from bench_lib.storage import madvise, mounts, pageout
from bench_lib.storage.device_mapper import SECTOR, LinearDevice
from bench_lib.storage.store import Store

RAM_DISK = Path("/dev/ram0")
RAM_DISK_MIB = 1 << 20
"""The size of the RAM disk. It takes only the memory of what has been written to it."""

SPARE_MIB = 16
"""How much larger the swap device is than the guest's memory. The kernel hands out the device in
clusters of 2 MiB at most, to each CPU its own, and never the one with the header."""

NAMES = {Backing.ANONYMOUS: "", Backing.MEMFD: "/memfd:memory-backend-memfd (deleted)"}
"""The name that each kind of memory has among the areas of QEMU's memory."""


def header(size: int) -> bytes:
    """Return the first page of a swap device, which mkswap(8) would write.

    :param size: the size of the device in bytes.
    """
    magic = b"SWAPSPACE2"
    # 1024 bytes for a boot sector, the version, the last page, and how many pages are bad.
    start = bytes(1024) + struct.pack("=3I", 1, size // mmap.PAGESIZE - 1, 0)
    return start.ljust(mmap.PAGESIZE - len(magic), b"\0") + magic


class SwapStore(Store):
    """A swap device that is suspended after the guest's memory has been pushed out to it."""

    mechanism = "dm-suspend"

    def __init__(self, name: str, size_mib: int, backing: Backing, stack: AsyncExitStack) -> None:
        """Make the swap device and use it.

        :param name: a name for the device, unique on this host.
        :param size_mib: the size of the guest's memory.
        :param backing: what the guest's memory is: `ANONYMOUS` or `MEMFD`.
        :param stack: the exit stack that ends the use of the device and removes it.
        :raise StorageFailed: the kernel refused something.
        :raise ToolFailed: a module cannot be loaded.
        """
        if len(Path("/proc/swaps").read_text().splitlines()) > 1:
            raise StorageFailed(
                "Another swap device is in use, to which the guest's memory could be pushed out "
                "too; boot another lab."
            )
        self._size = size_mib << 20
        self._name = NAMES[backing]
        disk, mapper = SWAP_MODULES
        run_tool(["modprobe", disk, "rd_nr=1", f"rd_size={RAM_DISK_MIB << 10}"])
        run_tool(["modprobe", mapper])
        size = (size_mib + SPARE_MIB) << 20
        self._device = LinearDevice(name, RAM_DISK, size // SECTOR)
        stack.callback(mounts.quietly, self._device.remove)
        self._device.path.write_bytes(header(size))
        path = os.fsencode(self._device.path)
        if libc.LIBC.swapon(path, 0) != 0:
            raise StorageFailed(f"The swap device cannot be used: {libc.error('swapon').strerror}.")
        stack.callback(mounts.quietly, lambda: self._swap_off(path))
        self.description = f"{backing} memory, swapped out to dm-linear over a RAM disk"

    def _swap_off(self, path: bytes) -> None:
        if libc.LIBC.swapoff(path) != 0:
            why = libc.error("swapoff").strerror
            raise StorageFailed(f"The swap device cannot be taken out of use: {why}.")

    async def stall(self, pid: int, deadline: Deadline) -> None:
        async with pageout.stopped(pid, deadline) as guest:
            self._push_out(guest)
            self._device.suspend()

    def _push_out(self, guest: pageout.StoppedGuest) -> None:
        """Push out all of the guest's memory, so that none of it is left in the swap cache.

        :raise StorageFailed: some memory stayed.
        """
        area = guest.memory(self._size, self._name)
        used = area.resident + area.swapped
        for _ in range(madvise.PUSHES):
            guest.push_out(area)
            swapped, cached = guest.memory(self._size, self._name).swapped, swap_cache()
            if swapped == used and cached == 0:
                return
        raise StorageFailed(
            f"{(used - swapped) >> 10} of {used >> 10} KiB of the guest's memory were not swapped "
            f"out, and {cached >> 10} KiB are in the swap cache; use a smaller guest, or give the "
            "lab more memory with KICKBENCH_LAB_MEMORY."
        )

    def release(self) -> None:
        self._device.resume()


def swap_cache() -> int:
    """Return how many bytes in memory are swapped out too, in all processes together."""
    # Each CPU counts for itself. Reading this file adds up what they have counted.
    Path("/proc/sys/vm/stat_refresh").read_bytes()
    return int(Path("/proc/meminfo").read_text().partition("SwapCached:")[2].split()[0]) << 10
