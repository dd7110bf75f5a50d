# SPDX-License-Identifier: BSD-3-Clause
"""The program of a FUSE server: one file whose reads can be left unanswered.

    python -m bench_lib.storage.fuse_server FILE SIZE

The server mounts the file system on the folder of FILE, in a mount namespace of its own. So other
processes reach the file as /proc/PID/root/FILE, and the mount is gone when the server has ended,
whatever ended it. The file has SIZE bytes, which are zeros at first.

It obeys the words on stdin, one per line:

    hold    Leave reads unanswered from now on, and still answer everything else.
    sync    The same for reads of one page. Refuse longer ones, with which the kernel reads ahead.
            So a page fault reads the page itself and waits for the answer (fuse_read_folio());
            otherwise it waits for a lock that the read-ahead holds. A smaller read-ahead would not
            do: QEMU advises huge pages (MADV_HUGEPAGE), and then the kernel reads 2 MiB ahead even
            where read-ahead is off (do_sync_mmap_readahead() in Linux 5.18 and later).
    answer  Answer all reads, also those that wait.

The words on stdout are `up VERSION` once the file exists, and each word of stdin once it is obeyed.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from errno import EIO, ENOENT
from typing import Any

from bench_lib import libc
from bench_lib.host import fuse

os.environ["FUSE_LIBRARY_PATH"] = fuse.library()

# mfusepy loads the library when it is imported. Its own search starts programs.
import mfusepy

PAGE = 4096
THREADS = 1024
"""The most threads of the server. Each read that is held keeps one."""
MAX_THREADS_SINCE = (3, 12)
"""The first version of libfuse that limits its threads, to 10 by default."""

CLONE_NEWNS = 0x00020000
MS_REC_PRIVATE = 0x4000 | 0x40000


class OneFile(mfusepy.Operations):  # type: ignore[misc]
    """The file system."""

    use_ns = True

    def __init__(self, name: str, size: int) -> None:
        self._path = f"/{name}"
        self._data = bytearray(size)
        self._refuses_to_read_ahead = False
        self._answers = threading.Event()
        self._answers.set()

    def obey(self, word: str) -> None:
        """Do what a word on stdin says."""
        if word == "answer":
            self._answers.set()
        else:
            self._refuses_to_read_ahead = word == "sync"
            self._answers.clear()

    def init(self, path: str) -> None:
        say(f"up {mfusepy.fuse_version_major}.{mfusepy.fuse_version_minor}")

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path != self._path:
            raise OSError(ENOENT, os.strerror(ENOENT))
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": len(self._data)}

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        if not self._answers.is_set():
            if self._refuses_to_read_ahead and size > PAGE:
                raise OSError(EIO, os.strerror(EIO))
            self._answers.wait()
        return bytes(self._data[offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._data[offset : offset + len(data)] = data
        return len(data)

    def flush(self, path: str, fh: int) -> int:
        return 0

    def release(self, path: str, fh: int) -> int:
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        return 0


def say(line: str) -> None:
    """Print a line as a whole, because several threads do."""
    os.write(1, f"{line}\n".encode())


def _mount_apart() -> None:
    """Move this process into a mount namespace of its own, whose mounts nobody else sees."""
    if libc.LIBC.unshare(CLONE_NEWNS) != 0:
        raise libc.error("unshare")
    if libc.LIBC.mount(None, b"/", None, MS_REC_PRIVATE, None) != 0:
        raise libc.error("mount")


def main(file: str, size: str) -> None:
    """Serve the file until this process is killed."""
    _mount_apart()
    folder, name = os.path.split(file)
    served = OneFile(name, int(size))

    def obey() -> None:
        for line in sys.stdin:
            served.obey(line.strip())
            say(line.strip())

    threading.Thread(target=obey, daemon=True).start()
    version = mfusepy.fuse_version_major, mfusepy.fuse_version_minor
    options = {"max_threads": THREADS} if version >= MAX_THREADS_SINCE else {}
    # Without kernel_cache, each further opening of the file would drop its pages from memory.
    mfusepy.FUSE(served, folder, foreground=True, fsname="kickbench", kernel_cache=True, **options)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (OSError, RuntimeError) as error:
        sys.exit(f"The file system cannot be served: {error}")
