# SPDX-License-Identifier: BSD-3-Clause
"""Find out what a host reports about itself when it joins a fleet."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from pathlib import Path

import bench_lib
from bench_lib.errors import ProgramMissing, ToolFailed
from bench_lib.fleet.facts import HostFacts
from bench_lib.fleet.work import Kind
from bench_lib.host import identity, setup
from bench_lib.kernel import image, installed
from bench_lib.lab import qemu
from bench_lib.settings import Settings


def facts(settings: Settings, kinds: tuple[Kind, ...], room: int, *, reboots: bool) -> HostFacts:
    """The facts of this host, as they are now.

    :raise HostError: this machine has no id.
    """
    return HostFacts(
        name=platform.node(),
        machine_id=identity.machine_id(),
        boot_id=identity.boot_id(),
        kernel=identity.booted(),
        kinds=kinds,
        room=room,
        kickbench=bench_lib.__version__,
        dask=importlib.metadata.version("distributed"),
        python=platform.python_version(),
        qemu=_qemu(settings),
        setup=setup.of_this_machine(),
        clock_ns=time.time_ns(),
        installed=tuple(image.identity(each.vmlinuz) for each in installed.find(Path("/"))[0]),
        reboots=reboots,
        accelerator=qemu.accelerator(),
    )


def _qemu(settings: Settings) -> str | None:
    try:
        return qemu.version_of(settings.qemu)
    except (ProgramMissing, ToolFailed):
        return None
