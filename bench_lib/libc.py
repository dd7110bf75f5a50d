# SPDX-License-Identifier: BSD-3-Clause
"""System calls that Python's os module does not have, through the C library."""

from __future__ import annotations

import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)
"""The C library of this process. A call of it returns before errno is read; see `error`."""


def error(name: str) -> OSError:
    """The error of the call of `LIBC` that has just failed.

    :param name: the name of the function, or of the file that it was called for.
    """
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), name)
