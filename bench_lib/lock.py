# SPDX-License-Identifier: BSD-3-Clause
"""Lock files and folders with flock(2); the kernel releases a lock when its process dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY
"""The flags of open(2) for a folder."""


def take(path: Path, flags: int, *, wait: bool, shared: bool = False) -> int | None:
    """Open and lock a file or folder, and return its descriptor. Closing it releases the lock.

    :param flags: the flags of open(2).
    :param wait: wait until another holder has released the lock, instead of returning None.
    :param shared: whether others may hold the lock at the same time, if they share it as well.
    """
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(fd, kind | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder, which protects the folder's contents."""
    fd = take(folder, FOLDER, wait=True)
    assert fd is not None
    try:
        yield
    finally:
        os.close(fd)
