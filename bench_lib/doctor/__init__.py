# SPDX-License-Identifier: BSD-3-Clause
"""What this host can measure, and what is missing for more: one row a check.

What can be tried is, in the way that trials go about it; the rest is what the kernel's files say.
Nothing of the host is installed, set or left behind.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench_lib.doctor import disturbance, guests, lab, links
from bench_lib.doctor.finding import Finding, Status
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
"""Rows that may not be missing for trials under the booted kernel."""

LAB = (
    Need.ARCHITECTURE,
    Need.ROOT,
    Need.QEMU,
    Need.NETWORK,
    lab.PROGRAMS,
    lab.MEMORY,
    lab.DISK,
)
"""The same for trials in the lab."""


def native_runs(rows: list[Finding]) -> bool:
    """Whether trials can run under the booted kernel."""
    return not _missing(rows, NATIVE)


def lab_runs(rows: list[Finding]) -> bool:
    """Whether they can in the lab."""
    return not _missing(rows, LAB)


def _missing(rows: list[Finding], names: tuple[str, ...]) -> bool:
    return any(row.name in names and row.status is Status.MISSING for row in rows)


def examine(settings: Settings) -> Iterator[Finding]:
    """Check after check. Each is as quick as it can be; all together take some seconds."""
    facts = setup.of_this_machine()
    yield from guests.qemu_machine(settings)
    yield lab.nesting(facts)
    yield from guests.evidence(settings)
    yield from guests.qemu(settings)
    yield from links.rows(settings)
    yield from guests.debuggers(settings)
    yield guests.huge_pages()
    yield lab.libvirt()
    yield lab.programs()
    yield lab.memory(settings)
    yield lab.disk(settings)
    yield from disturbance.rows(settings, facts)


__all__ = ["LAB", "NATIVE", "Finding", "Status", "examine", "lab_runs", "native_runs"]
