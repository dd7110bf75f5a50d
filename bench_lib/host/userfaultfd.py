# SPDX-License-Identifier: BSD-3-Clause
"""userfaultfd(2): a descriptor that reports faults, or why there is none; through ctypes."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

from bench_lib import architecture
from bench_lib.errors import UserfaultfdForbidden

# linux/userfaultfd.h
UFFD_API = 0xAA
UFFDIO_API = 0xC018AA3F

_libc = ctypes.CDLL(None, use_errno=True)


def open_descriptor(features: int = 0) -> int:
    """A userfaultfd that also handles faults of the kernel's own.

    :param features: UFFD_FEATURE_*, all of which it must have.
    :raise UserfaultfdForbidden: the sentence says what would allow it.
    """
    fd = _libc.syscall(architecture.here().userfaultfd, os.O_CLOEXEC)
    if fd < 0:
        if (code := ctypes.get_errno()) == errno.ENOSYS:
            raise UserfaultfdForbidden(
                "This kernel has no userfaultfd(2); it takes one with CONFIG_USERFAULTFD."
            )
        raise UserfaultfdForbidden(
            f"userfaultfd(2) is refused ({os.strerror(code)}): run as root, with CAP_SYS_PTRACE "
            "and no seccomp filter in the way (a container's), or set "
            "`sysctl vm.unprivileged_userfaultfd=1`."
        )
    try:
        fcntl.ioctl(fd, UFFDIO_API, struct.pack("<QQQ", UFFD_API, features, 0))
    except OSError as error:
        os.close(fd)
        raise UserfaultfdForbidden(
            f"This kernel's userfaultfd lacks what is asked for ({error.strerror})."
        ) from None
    return int(fd)


def check(features: int = 0) -> None:
    """Try to have one.

    :param features: UFFD_FEATURE_* that it must have.
    :raise UserfaultfdForbidden: it may not be had, or this kernel's lacks one of them.
    """
    os.close(open_descriptor(features))
