# SPDX-License-Identifier: BSD-3-Clause
"""Which kernel runs here, which start of it, and on which machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from bench_lib.record import Host, Kernel


def booted() -> Kernel:
    """The kernel that runs this process."""
    uname = os.uname()
    return Kernel(uname.release, uname.version)


def boot_id() -> str:
    """A name for this start of the kernel; random(4)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def this_host(lab: tuple[str, str] | None) -> Host:
    """This machine, with the kernel that it was booted with.

    :param lab: in a lab, what that runs on and the name of the machine that it is on.
    """
    if lab is not None:
        accelerator, machine = lab
        return Host("lab", accelerator, machine)
    return Host("native", "kvm", platform.node())
