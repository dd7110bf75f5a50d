# SPDX-License-Identifier: BSD-3-Clause
"""Find the kernel that Linux guests run."""

from __future__ import annotations

from pathlib import Path

from bench_lib.errors import GuestKernelMissing
from bench_lib.kernel.ledger import version_key
from bench_lib.kernel.names import meant
from bench_lib.kernel.store import MANIFEST, Bootable, Store
from bench_lib.settings import Settings


def find(settings: Settings) -> Bootable:
    """Find the kernel of Linux guests in the cache, without asking for a newer one.

    All kernels under test get the same guest in this way, as long as the cache does not change.

    :raise GuestKernelMissing: the cache does not have it, or the folder that the settings name has
        no build.
    :raise KernelUnusable: the description of a build is damaged.
    """
    name = settings.guest_kernel
    if is_path(settings):
        found = Store.at(Path(name))
        candidates = [found] if found else []
    else:
        builds = Store.of(settings).all()
        wanted = {each.id for each in meant(name, [each.build for each in builds])}
        candidates = [each for each in builds if each.build.id in wanted]
    if not candidates and is_path(settings):
        raise GuestKernelMissing(
            f"KICKBENCH_GUEST_KERNEL is {name}, which is not the folder of a kernel build: it has "
            f"no {MANIFEST}; set it to such a folder in the cache, or to the name of a kernel."
        )
    if not candidates:
        raise GuestKernelMissing(
            f"Linux guests run the kernel {name}, which is not in the cache; run `kickbench "
            f"kernels fetch {name}`, or set KICKBENCH_GUEST_KERNEL to another kernel."
        )
    return max(candidates, key=lambda each: (version_key(each.build.release), each.build.date))


def is_path(settings: Settings) -> bool:
    """Return whether the settings name the folder of a build, and not a kernel to be found."""
    return Path(settings.guest_kernel).is_absolute()
