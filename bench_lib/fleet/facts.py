# SPDX-License-Identifier: BSD-3-Clause
"""What a host reports about itself when it joins."""

from __future__ import annotations

from dataclasses import dataclass

from bench_lib.fleet.work import Kind
from bench_lib.record import Kernel, Setup

EXTRA = "kickbench"
"""The name under which a worker reports its facts when it registers."""

ROOM = "room"
"""The resource that a host has as often as it makes boots at once."""


def resource(name: str) -> str:
    """Return the resource that only the host of this name has."""
    return f"host-{name}"


@dataclass(frozen=True)
class HostFacts:
    """What a host reports about itself when it joins, and each time that it comes back.

    :ivar name: the name of the host, as records have it.
    :ivar machine_id: see `host.identity.machine_id`.
    :ivar kernel: the booted kernel.
    :ivar kinds: the kinds of work that the host offers. The doctor may find that it can do less.
    :ivar room: the number of boots that the host makes at once. It is 1 if the host offers host
        work, because labs would disturb the trials.
    :ivar installed: the kernels that are installed on the host.
    :ivar reboots: whether the coordinator may boot the host into another kernel.
    :ivar accelerator: the accelerator of the host's labs: `kvm` or `tcg`.
    :ivar clock_ns: the time of the host's clock, in nanoseconds since 1970 (UTC).
    """

    name: str
    machine_id: str
    boot_id: str
    kernel: Kernel
    kinds: tuple[Kind, ...]
    room: int
    kickbench: str
    dask: str
    python: str
    qemu: str | None
    setup: Setup
    clock_ns: int
    installed: tuple[Kernel, ...] = ()
    reboots: bool = False
    accelerator: str = "tcg"
