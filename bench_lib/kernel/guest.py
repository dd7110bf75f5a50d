# SPDX-License-Identifier: BSD-3-Clause
"""Find the kernel that Linux guests run."""

from __future__ import annotations

from pathlib import Path

from bench_lib.errors import GuestKernelMissing
from bench_lib.kernel.ledger import version_key
from bench_lib.kernel.names import meant
from bench_lib.kernel.store import Bootable, Store
from bench_lib.settings import Settings


def find(settings: Settings) -> Bootable:
    """Find the kernel of Linux guests in the cache, without asking for a newer one.

    All kernels under test get the same guest in this way, as long as the cache does not change.

    :raise GuestKernelMissing: the cache does not have it.
    """
    name = settings.guest_kernel
    if Path(name).is_absolute():
        found = Store.at(Path(name))
        candidates = [found] if found else []
    else:
        builds = Store.of(settings).all()
        wanted = {each.id for each in meant(name, [each.build for each in builds])}
        candidates = [each for each in builds if each.build.id in wanted]
    if not candidates:
        raise GuestKernelMissing(
            f"Linux guests run the kernel {name}, which is not in the cache; run `kickbench "
            f"kernels fetch {name}`, or set KICKBENCH_GUEST_KERNEL to another kernel."
        )
    return max(candidates, key=lambda each: (version_key(each.build.release), each.build.date))
