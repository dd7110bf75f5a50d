"""Memory whose pages nobody delivers: userfaultfd(2), through ctypes."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct

from bench_lib.errors import HugepagesMissing, UserfaultfdForbidden
from bench_lib.host import setup
from bench_lib.kvm.vcpu import HUGE_PAGE, address_of
from bench_lib.record import Backing

SYS_USERFAULTFD = 323
UFFD_API = 0xAA
UFFDIO_API = 0xC018AA3F
UFFDIO_REGISTER = 0xC020AA00
MODES = {"missing": 1, "minor": 4}
"""UFFDIO_REGISTER_MODE_*: a page that is not there, and one that is only not mapped."""
FEATURES = {
    ("missing", Backing.ANONYMOUS): 0,
    ("missing", Backing.MEMFD): 1 << 5,
    ("missing", Backing.HUGETLB): 1 << 4,
    ("minor", Backing.MEMFD): 1 << 10,
    ("minor", Backing.HUGETLB): 1 << 9,
}
"""UFFD_FEATURE_* that a mode needs on a kind of memory."""

_libc = ctypes.CDLL(None, use_errno=True)


def open_descriptor(features: int = 0) -> int:
    """A userfaultfd that also handles faults of the kernel's own.

    :param features: UFFD_FEATURE_*, all of which it must have.
    :raise UserfaultfdForbidden: the sentence says what would allow it.
    """
    fd = _libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC)
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


def check(mode: str | None = None, backing: Backing = Backing.ANONYMOUS) -> None:
    """Try to have one, for any memory or for faults of that mode on that kind of it.

    :raise UserfaultfdForbidden: it may not be had, or this kernel lacks that.
    """
    os.close(open_descriptor(0 if mode is None else FEATURES[mode, backing]))


class Undelivered:
    """A piece of memory, the faults of which are reported to nobody who cares."""

    def __init__(self, backing: Backing, mode: str) -> None:
        """Map it.

        :raise UserfaultfdForbidden: this kernel cannot do so.
        :raise HugepagesMissing: there is no huge page.
        """
        self._fd = open_descriptor(FEATURES[mode, backing])
        self.memory = self._map(backing, mode)
        fcntl.ioctl(
            self._fd,
            UFFDIO_REGISTER,
            struct.pack("<4Q", address_of(self.memory), len(self.memory), MODES[mode], 0),
        )

    def _map(self, backing: Backing, mode: str) -> mmap.mmap:
        if backing is Backing.ANONYMOUS:
            return mmap.mmap(-1, HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        huge = os.MFD_HUGETLB | os.MFD_HUGE_2MB if backing is Backing.HUGETLB else 0
        file = os.memfd_create("target", os.MFD_CLOEXEC | huge)
        try:
            os.ftruncate(file, HUGE_PAGE)
            if mode == "minor":
                with mmap.mmap(file, HUGE_PAGE) as elsewhere:
                    elsewhere[0] = 1
            return mmap.mmap(file, HUGE_PAGE)
        except OSError as error:
            raise HugepagesMissing(
                f"No huge page of 2 MiB could be had ({error.strerror}): "
                f"`{setup.more_huge_pages(1)}` makes one."
            ) from None
        finally:
            os.close(file)
