# SPDX-License-Identifier: BSD-3-Clause
"""Rows about guests and what is asked of them, under the booted kernel."""

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
"""How long QEMU may take to say what it can."""


def qemu_machine(settings: Settings) -> Iterator[Finding]:
    """What the kernel and its rights are."""
    yield _kernel()
    for need in (Need.ARCHITECTURE, Need.ROOT, Need.KVM):
        yield of_need(need, settings)


def evidence(settings: Settings) -> Iterator[Finding]:
    """What strands a guest, and what shows that it is."""
    for need in (Need.USERFAULTFD, Need.STACKS):
        yield of_need(need, settings)


def _kernel() -> Finding:
    kernel = identity.booted()
    interruptible = btf.booted_interruptible()
    return Finding(
        "kernel",
        Status.FINE,
        f"{kernel.release} {kernel.version}; its types say interruptible: {interruptible}",
    )


def qemu(settings: Settings) -> Iterator[Finding]:
    """The program, and what it says that it can do."""
    row = of_need(Need.QEMU, settings)
    if row.status is not Status.FINE:
        yield row
        return

    async def ask(run: Run) -> features.Features:
        return await features.ask(run, settings.qemu, Deadline.after(QEMU_LIMIT_S))

    try:
        # It needs no lock, for a QEMU that only answers disturbs nobody.
        with tempfile.TemporaryDirectory() as folder, ownership.measuring(Path(folder)) as run:
            found = interrupt.run(ask(run))
    except HostError as error:
        fix = needs.fix(Need.QEMU, settings)
        yield Finding(Need.QEMU, Status.MISSING, str(error), needs.lost(Need.QEMU), fix)
        return
    if missing := found.missing():
        yield Finding(
            Need.QEMU,
            Status.MISSING,
            f"{found.version} lacks {', '.join(missing)}",
            "no migration; KICKBENCH_QEMU may name a later one",
        )
        return
    yield Finding(Need.QEMU, Status.FINE, f"{found.version}, up to {found.max_vcpus} vCPUs")
    if found.missing(preempt=True):
        yield Finding(
            "preemption",
            Status.DEGRADED,
            f"QEMU {found.version} has no {features.PREEMPT}",
            "no guests of --preempt; it came with QEMU 7.1",
        )
    else:
        yield Finding("preemption", Status.FINE, features.PREEMPT)


def debuggers(settings: Settings) -> Iterator[Finding]:
    """What requests of debuggers take."""
    yield of_need(Need.GDB, settings, Status.DEGRADED)
    row = of_need(Need.PTRACE, settings, Status.DEGRADED)
    if row.status is Status.FINE:
        row = of_need(Need.PTRACE_SIBLING, settings, Status.DEGRADED, name=Need.PTRACE)
    if row.status is not Status.FINE and setup.ptrace_scope() == needs.PTRACE_NEVER:
        boot = "kernel.yama.ptrace_scope can only be set lower by a boot"
        row = dataclasses.replace(row, means=f"{row.means}; {boot}")
    yield row


def huge_pages() -> Finding:
    """Those that the usual pair of guests takes."""
    usual = Case(
        ScenarioName.BLACKHOLE, RequestName.STOP, Shape(backing=Backing.HUGETLB)
    ).huge_pages

    def check() -> str:
        setup.check_huge_pages(usual)
        return f"{setup.free_huge_pages()} free"

    def fix() -> str | None:
        if setup.huge_pages() is None:
            return None  # this kernel has none of that size
        return setup.more_huge_pages(usual, "tee" if os.geteuid() == 0 else "sudo tee")

    return tried(
        "huge pages",
        check,
        Status.DEGRADED,
        f"no guests of backing {Backing.HUGETLB}, which take {usual}",
        fix,
    )
