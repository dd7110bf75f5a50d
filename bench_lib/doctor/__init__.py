# SPDX-License-Identifier: BSD-3-Clause
"""Check what this host can measure and what is missing, in one row per check.

Where possible a check tries what trials do; otherwise it reads the kernel's files. The checks do
not install anything, change a setting, or leave anything behind.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench_lib.doctor import disturbance, guests, lab, libvirt, links, linux
from bench_lib.doctor.finding import Finding, Status, of_need
from bench_lib.host import setup
from bench_lib.host.need import Need
from bench_lib.settings import Settings

NATIVE = (
    Need.ARCHITECTURE,
    Need.ROOT,
    Need.KVM,
    Need.USERFAULTFD,
    Need.STACKS,
    Need.QEMU,
    Need.NETWORK,
    links.OUTAGES,
)
"""The rows that trials under the booted kernel depend on."""

LAB = (
    Need.ARCHITECTURE,
    Need.ROOT,
    Need.QEMU,
    Need.NETWORK,
    lab.PROGRAMS,
    lab.MEMORY,
    lab.DISK,
)
"""The rows that trials in the lab depend on."""


def native_runs(rows: list[Finding]) -> bool:
    """Whether trials can run under the booted kernel."""
    return not _missing(rows, NATIVE)


def lab_runs(rows: list[Finding]) -> bool:
    """Whether trials can run in the lab."""
    return not _missing(rows, LAB)


def _missing(rows: list[Finding], names: tuple[str, ...]) -> bool:
    return any(row.name in names and row.status is Status.MISSING for row in rows)


def examine(settings: Settings) -> Iterator[Finding]:
    """Run the checks one after the other. Together they take some seconds."""
    facts = setup.of_this_machine()
    yield from guests.qemu_machine(settings)
    yield lab.nesting(facts)
    yield from guests.evidence(settings)
    yield from guests.qemu(settings)
    yield from links.rows(settings)
    yield from guests.debuggers(settings)
    yield of_need(Need.FUSE, settings, Status.DEGRADED)
    yield from guests.administrators(settings)
    yield guests.huge_pages()
    yield linux.finding(settings)
    yield libvirt.finding(settings)
    yield lab.programs()
    yield lab.memory(settings)
    yield lab.disk(settings)
    yield from disturbance.rows(settings, facts)


__all__ = ["LAB", "NATIVE", "Finding", "Status", "examine", "lab_runs", "native_runs"]
