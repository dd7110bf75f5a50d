# SPDX-License-Identifier: BSD-3-Clause
"""Memory whose missing pages never arrive, by userfaultfd(2)."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct

from bench_lib.errors import HugepagesMissing
from bench_lib.host import setup, userfaultfd
from bench_lib.kvm.programs import HUGE_PAGE
from bench_lib.kvm.vcpu import address_of
from bench_lib.record import Backing

UFFDIO_REGISTER = 0xC020AA00
MODES = {"missing": 1, "minor": 4}
"""UFFDIO_REGISTER_MODE_*: the page does not exist, or it exists and is only not mapped."""
FEATURES = {
    ("missing", Backing.ANONYMOUS): 0,
    ("missing", Backing.MEMFD): 1 << 5,
    ("missing", Backing.HUGETLB): 1 << 4,
    ("minor", Backing.MEMFD): 1 << 10,
    ("minor", Backing.HUGETLB): 1 << 9,
}
"""The UFFD_FEATURE_* that each mode needs on each kind of memory."""


class Undelivered:
    """Memory whose faults go to a userfaultfd that is never read.

    :ivar memory: the mapping, one huge page long.
    :ivar fd: the userfaultfd. If it is closed, the kernel delivers pages of zeros instead.
    """

    def __init__(self, backing: Backing, mode: str) -> None:
        """Map the memory and register it.

        :param mode: a key of `MODES`.
        :raise UserfaultfdForbidden: this kernel's userfaultfd is refused, or lacks this mode.
        :raise HugepagesMissing: the kernel has no free huge page.
        """
        self.fd = userfaultfd.open_descriptor(FEATURES[mode, backing])
        self.memory = self._map(backing, mode)
        fcntl.ioctl(
            self.fd,
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
                f"No huge page of 2 MiB could be mapped ({error.strerror}); "
                f"reserve one with `{setup.more_huge_pages(1)}`."
            ) from None
        finally:
            os.close(file)
