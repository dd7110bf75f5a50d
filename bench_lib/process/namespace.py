# SPDX-License-Identifier: BSD-3-Clause
"""Entering network namespaces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from bench_lib import libc

CLONE_NEWNET = 0x40000000


def _enter(fd: int) -> None:
    """Move the calling thread into the network namespace of `fd` with setns(2)."""
    if libc.LIBC.setns(fd, CLONE_NEWNET) != 0:
        raise libc.error("setns")


@contextmanager
def in_network_namespace(fd: int) -> Iterator[None]:
    """Put the calling thread, and the processes that it starts, into a network namespace.

    :param fd: a descriptor of the namespace.
    :raise OSError: `fd` is not a network namespace, or the kernel refused.
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
