# SPDX-License-Identifier: BSD-3-Clause
"""The program that pushes a part of a file out of this host's memory.

    python -m bench_lib.storage.pusher PID START FILE FIRST SIZE

It is a process of its own, because a file system that does not answer would keep it waiting. The
file is mapped by process PID from address START on. The part begins at byte FIRST and has SIZE
bytes. The program exits with 0 if none of the part is left in the page cache, and otherwise prints
a sentence and exits with 1.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys

from bench_lib import libc
from bench_lib.storage.madvise import PUSHES, push_out


def cached(fd: int, first: int, size: int) -> int:
    """Return how many bytes of a part of a file are in the page cache."""
    pages = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
    with mmap.mmap(fd, size, offset=first) as mapped:
        start = ctypes.c_char.from_buffer(mapped)
        failed = libc.LIBC.mincore(ctypes.byref(start), ctypes.c_size_t(size), pages)
        del start  # the mapping cannot be closed before
        if failed:
            raise libc.error("mincore")
    return sum(each & 1 for each in pages) * mmap.PAGESIZE


def main(pid: int, start: int, file: str, first: int, size: int) -> None:
    """Push the part out.

    :raise OSError: the kernel refused something.
    """
    process = os.pidfd_open(pid)
    fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    for _ in range(PUSHES):
        # Only pages that the server has can be pushed out. When a page is written, KVM unmaps it
        # from the guest and marks it as changed, so it has to be written once more.
        os.fdatasync(fd)
        push_out(process, start + first, size)
        # Pages that are not mapped any more.
        os.posix_fadvise(fd, first, size, os.POSIX_FADV_DONTNEED)
        left = cached(fd, first, size)
        if not left:
            # Nothing may be left to write, because the end of QEMU would wait for that.
            os.fdatasync(fd)
            return
    sys.exit(f"{left >> 10} KiB of the guest's memory were not pushed out; use a smaller guest.")


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    except OSError as error:
        sys.exit(f"The guest's memory cannot be pushed out: {error}.")
