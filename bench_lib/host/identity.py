# SPDX-License-Identifier: BSD-3-Clause
"""Identify the running kernel, its boot, and the machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from bench_lib.record import Host, Kernel


def booted() -> Kernel:
    """The running kernel."""
    uname = os.uname()
    return Kernel(uname.release, uname.version)


def boot_id() -> str:
    """The id of this boot; see random(4)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def this_host(lab: tuple[str, str] | None) -> Host:
    """The host that this process stores in its records.

    :param lab: the lab's accelerator and the name of the machine that runs the lab; None outside of
        a lab.
    """
    if lab is not None:
        accelerator, machine = lab
        return Host("lab", accelerator, machine)
    return Host("native", "kvm", platform.node())
