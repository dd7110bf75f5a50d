# SPDX-License-Identifier: BSD-3-Clause
"""Network namespaces that the calling thread enters."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from bench_lib import libc

CLONE_NEWNET = 0x40000000


def _enter(fd: int) -> None:
    """Move the calling thread into the network namespace that `fd` refers to; setns(2)."""
    if libc.LIBC.setns(fd, CLONE_NEWNET) != 0:
        raise libc.error("setns")


@contextmanager
def in_network_namespace(fd: int) -> Iterator[None]:
    """With the calling thread, and so what it starts, in a network namespace.

    :param fd: refers to the namespace.
    :raise OSError: it is none, or may not be entered.
    """
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(fd)
        try:
            yield
        finally:
            _enter(own)
    finally:
        os.close(own)
