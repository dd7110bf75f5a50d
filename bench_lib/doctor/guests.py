# SPDX-License-Identifier: BSD-3-Clause
"""Rows about guests and requests under the booted kernel."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench_lib import interrupt, ownership
from bench_lib.deadline import Deadline
from bench_lib.doctor.finding import Finding, Status, of_need, tried
from bench_lib.errors import HostError
from bench_lib.guest import features
from bench_lib.host import identity, needs, setup
from bench_lib.host.need import Need
from bench_lib.kernel import btf
from bench_lib.ownership import Run
from bench_lib.record import Backing, RequestName, ScenarioName, Shape
from bench_lib.settings import Settings
from bench_lib.trial.case import Case

QEMU_LIMIT_S = 20.0
"""How long QEMU may take to report its features."""


def qemu_machine(settings: Settings) -> Iterator[Finding]:
    """Check the kernel, the CPU architecture, this user's rights and KVM."""
    yield _kernel()
    for need in (Need.ARCHITECTURE, Need.ROOT, Need.KVM):
        yield of_need(need, settings)


def evidence(settings: Settings) -> Iterator[Finding]:
    """Check what makes a guest stuck, and what proves that it is."""
    for need in (Need.USERFAULTFD, Need.STACKS):
        yield of_need(need, settings)


def _kernel() -> Finding:
    kernel = identity.booted()
    interruptible = btf.booted_interruptible()
    return Finding(
        "kernel",
        Status.FINE,
        f"{kernel.release} {kernel.version}; "
        f"interruptible page fault of KVM, according to its BTF: {interruptible}",
    )


def qemu(settings: Settings) -> Iterator[Finding]:
    """Check that QEMU is installed, and read its features from it."""
    row = of_need(Need.QEMU, settings)
    if row.status is not Status.FINE:
        yield row
        return

    async def ask(run: Run) -> features.Features:
        return await features.ask(run, settings.qemu, Deadline.after(QEMU_LIMIT_S))

    try:
        # Use another runtime folder, and do not lock that of the settings, because a QEMU
        # that only answers questions does not disturb measurements.
        with tempfile.TemporaryDirectory() as folder, ownership.measuring(Path(folder)) as run:
            found = interrupt.run(ask(run))
    except HostError as error:
        fix = needs.fix(Need.QEMU, settings)
        yield Finding(Need.QEMU, Status.MISSING, str(error), needs.consequence(Need.QEMU), fix)
        return
    if missing := found.missing():
        yield Finding(
            Need.QEMU,
            Status.MISSING,
            f"{found.version} lacks {', '.join(missing)}",
            "no postcopy migration can run; set KICKBENCH_QEMU to a newer QEMU",
        )
        return
    yield Finding(Need.QEMU, Status.FINE, f"{found.version}, up to {found.max_vcpus} vCPUs")
    if found.missing(preempt=True):
        yield Finding(
            "preemption",
            Status.DEGRADED,
            f"QEMU {found.version} does not have {features.PREEMPT}",
            "trials with --preempt cannot run; they need QEMU 7.1 or newer",
        )
    else:
        yield Finding("preemption", Status.FINE, f"QEMU has {features.PREEMPT}")


def debuggers(settings: Settings) -> Iterator[Finding]:
    """Check what requests that are made with a debugger need."""
    yield of_need(Need.GDB, settings, Status.DEGRADED)
    row = of_need(Need.PTRACE, settings, Status.DEGRADED)
    if row.status is Status.FINE:
        row = of_need(Need.PTRACE_SIBLING, settings, Status.DEGRADED, name=Need.PTRACE)
    if row.status is not Status.FINE and setup.ptrace_scope() == needs.PTRACE_NEVER:
        boot = "kernel.yama.ptrace_scope cannot be lowered before the next boot"
        row = dataclasses.replace(row, means=f"{row.means}; {boot}")
    yield row


def administrators(settings: Settings) -> Iterator[Finding]:
    """Check what requests need that an administrator makes to the kernel."""
    for need in (Need.PS, Need.FREEZER, Need.CORE_DUMPS):
        yield of_need(need, settings, Status.DEGRADED)


def huge_pages() -> Finding:
    """Check for the huge pages that the usual pair of guests takes."""
    usual = Case(
        ScenarioName.BLACKHOLE, RequestName.STOP, Shape(backing=Backing.HUGETLB)
    ).huge_pages

    def check() -> str:
        setup.check_huge_pages(usual)
        return f"{setup.free_huge_pages()} free"

    def fix() -> str | None:
        if setup.huge_pages() is None:
            return None  # the kernel does not support this size
        return setup.more_huge_pages(usual, "tee" if os.geteuid() == 0 else "sudo tee")

    return tried(
        "huge pages",
        check,
        Status.DEGRADED,
        f"guests with the backing {Backing.HUGETLB} cannot run; the usual pair takes {usual} pages",
        fix,
    )
