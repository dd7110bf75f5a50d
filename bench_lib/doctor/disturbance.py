# SPDX-License-Identifier: BSD-3-Clause
"""Rows about what disturbs measurements on this host."""

from __future__ import annotations

import os
from collections.abc import Iterator

from bench_lib.doctor.finding import Finding, Status
from bench_lib.errors import HostError
from bench_lib.host import setup, shell
from bench_lib.record import Setup
from bench_lib.settings import Settings
from bench_lib.trial import leftovers

BUSY = 0.5
"""The load per CPU above which other processes are assumed to affect latencies."""

SMT_CONTROL = setup.SYSTEM / "smt/control"


def rows(settings: Settings, facts: Setup) -> Iterator[Finding]:
    """Check how steady the CPUs are, and what else runs on them.

    :param facts: the set-up of this machine.
    """
    yield _governor(facts)
    yield _turbo(facts)
    yield _smt(facts)
    yield _load()
    yield _leftovers(settings)


def _governor(facts: Setup) -> Finding:
    governor = facts.governor
    if governor == "performance":
        return Finding("governor", Status.FINE, governor)
    if governor is None:
        return Finding(
            "governor",
            Status.DEGRADED,
            "the kernel does not control the CPU frequency, as in most virtual machines",
            "latencies vary if the hypervisor or the firmware changes the frequency",
        )
    return Finding(
        "governor",
        Status.DEGRADED,
        governor,
        "latencies vary with the CPU frequency",
        shell.write("performance", "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"),
    )


def _turbo(facts: Setup) -> Finding:
    if not facts.turbo:
        found = "off" if facts.turbo is False else "the kernel has no switch for it"
        return Finding("turbo", Status.FINE, found)
    intel = setup.SYSTEM / "intel_pstate/no_turbo"
    fix = (
        shell.write("1", str(intel))
        if intel.exists()
        else shell.write("0", f"{setup.SYSTEM}/cpufreq/boost")
    )
    return Finding("turbo", Status.DEGRADED, "on", "latencies vary with the CPU temperature", fix)


def _smt(facts: Setup) -> Finding:
    if not facts.smt:
        return Finding("smt", Status.FINE, "off")
    fix = shell.write("off", str(SMT_CONTROL))
    means = "latencies depend on what runs on the sibling thread of a core"
    return Finding("smt", Status.DEGRADED, "on", means, fix)


def _load() -> Finding:
    load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    found = f"{load:.1f} on average over the last minute, on {cpus} CPUs"
    if load <= BUSY * cpus:
        return Finding("load", Status.FINE, found)
    means = "other processes lengthen latencies; wait for them, or end those that are yours"
    return Finding(
        "load", Status.DEGRADED, found, means, "ps -e --sort=-pcpu -o pcpu,pid,comm | head"
    )


def _leftovers(settings: Settings) -> Finding:
    try:
        found = leftovers.find(settings.runtime).lines() if settings.runtime.exists() else []
    except (HostError, PermissionError):
        unseen = f"this user cannot read {settings.runtime}"
        means = "what killed runs have left there, if anything, may lengthen latencies"
        return Finding("leftovers", Status.DEGRADED, unseen, means)
    if not found:
        return Finding("leftovers", Status.FINE, "none")
    fix = shell.ours("clean")
    means = "killed runs have left this, and it may lengthen latencies"
    return Finding("leftovers", Status.DEGRADED, ", ".join(found), means, shell.as_root(fix))
