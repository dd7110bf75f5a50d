# SPDX-License-Identifier: BSD-3-Clause
"""Find the kernels that are installed on this host: images in /boot or beside their modules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench_lib.errors import KernelUnusable
from bench_lib.kernel import image, layout
from bench_lib.record import Kernel


@dataclass(frozen=True)
class Installed:
    """An installed kernel.

    :ivar modules: the kernel's folder lib/modules/RELEASE.
    """

    vmlinuz: Path
    modules: Path


def find(root: Path) -> tuple[list[Installed], list[KernelUnusable]]:
    """The installed kernels with their modules, and an error for each image that cannot be used.

    :param root: the root of the system, which is / except in tests.
    """
    found: dict[Kernel, Installed] = {}
    unusable = []
    for vmlinuz in layout.images_of(root):
        try:
            kernel = image.identity(vmlinuz)
        except KernelUnusable as error:
            unusable.append(error)
            continue
        if modules := layout.modules_of(root, kernel.release):
            # A link, a rescue image and the image beside its modules may all be the same build.
            found.setdefault(kernel, Installed(vmlinuz, modules))
        else:
            unusable.append(
                KernelUnusable(
                    f"{vmlinuz} is kernel {kernel.release}, but {root / layout.MODULES} has no "
                    "modules of this release; install the package that contains them."
                )
            )
    return list(found.values()), unusable
