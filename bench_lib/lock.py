# SPDX-License-Identifier: BSD-3-Clause
"""Locks on files and folders, which the kernel drops when their process dies (flock(2))."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY
"""How a folder is opened."""


def take(path: Path, flags: int, *, wait: bool) -> int | None:
    """Open and lock a file or folder; its descriptor, which holds the lock until it is closed.

    :param flags: of open(2).
    :param wait: whether to wait for another holder; if not, None is returned.
    """
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder, which protects what is in it."""
    fd = take(folder, FOLDER, wait=True)
    assert fd is not None
    try:
        yield
    finally:
        os.close(fd)
