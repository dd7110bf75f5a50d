# SPDX-License-Identifier: BSD-3-Clause
"""What a FUSE server needs of this machine: the device, the library, and mfusepy."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path

from bench_lib.errors import FuseUnavailable

DEVICE = Path("/dev/fuse")

LIBRARIES = ("libfuse3.so.4", "libfuse3.so.3")
"""The libraries that mfusepy can use, the newest first: libfuse 3.17 changed its interface."""


def check() -> str:
    """Check that a FUSE file system can be served, and return the name of the library.

    :raise FuseUnavailable: it cannot; the sentence names what is missing.
    """
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise FuseUnavailable(
            f"{DEVICE} cannot be opened ({error.strerror}), so no FUSE file system can be served; "
            "load the module fuse, or give the container this device."
        ) from None
    if importlib.util.find_spec("mfusepy") is None:
        raise FuseUnavailable(
            "The Python package mfusepy is not installed; install kickbench with its dependencies."
        )
    return library()


def library() -> str:
    """Return the name of the newest installed library of `LIBRARIES`.

    :raise FuseUnavailable: none is installed.
    """
    for name in LIBRARIES:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return name
    raise FuseUnavailable("libfuse 3 is not installed; `kickbench set-up` installs it.")
