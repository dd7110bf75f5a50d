# SPDX-License-Identifier: BSD-3-Clause
"""Open a userfaultfd(2), or explain why it is not possible."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from bench_lib import architecture, libc
from bench_lib.errors import UserfaultfdForbidden

# linux/userfaultfd.h
UFFD_API = 0xAA
UFFDIO_API = 0xC018AA3F


def open_descriptor(features: int = 0) -> int:
    """Open a userfaultfd that also handles the kernel's own page faults.

    :param features: the UFFD_FEATURE_* that the kernel must support.
    :raise UserfaultfdForbidden: the kernel has no userfaultfd, lacks a feature, or forbids it.
    """
    fd = libc.LIBC.syscall(architecture.here().userfaultfd, os.O_CLOEXEC)
    if fd < 0:
        refused = libc.error("userfaultfd")
        if refused.errno == errno.ENOSYS:
            raise UserfaultfdForbidden(
                "This kernel has no userfaultfd(2); boot one with CONFIG_USERFAULTFD."
            )
        raise UserfaultfdForbidden(
            f"The kernel refuses userfaultfd(2) ({refused.strerror}). Run kickbench as root, with "
            "CAP_SYS_PTRACE, and in a container without a seccomp filter that forbids it; or set "
            "`sysctl vm.unprivileged_userfaultfd=1`."
        )
    try:
        fcntl.ioctl(fd, UFFDIO_API, struct.pack("<QQQ", UFFD_API, features, 0))
    except OSError as error:
        os.close(fd)
        raise UserfaultfdForbidden(
            "This kernel's userfaultfd lacks a feature that kickbench needs "
            f"({error.strerror}); boot a newer kernel."
        ) from None
    return int(fd)


def check(features: int = 0) -> None:
    """Open a userfaultfd, and close it.

    :param features: the UFFD_FEATURE_* that the kernel must support.
    :raise UserfaultfdForbidden: the kernel has no userfaultfd, lacks a feature, or forbids it.
    """
    os.close(open_descriptor(features))
