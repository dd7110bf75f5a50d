# SPDX-License-Identifier: BSD-3-Clause
"""Rows about what disturbs measurements on this host."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from bench_lib.doctor.finding import Finding, Status
from bench_lib.errors import HostError
from bench_lib.host import setup, shell
from bench_lib.record import Setup
from bench_lib.settings import Settings
from bench_lib.trial import leftovers

BUSY = 0.5
"""Runnable threads a CPU from which on a host is not left to the measurement."""

SMT_CONTROL = setup.SYSTEM / "smt/control"


def rows(settings: Settings, facts: Setup) -> Iterator[Finding]:
    """How steady the CPUs are, and what else runs on them. :param facts: of this machine."""
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
            "the kernel has no say over the frequency, as in a virtual machine",
            "whoever has may let it vary, and latencies with it",
        )
    return Finding(
        "governor",
        Status.DEGRADED,
        governor,
        "latencies vary with the frequency",
        shell.write("performance", "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"),
    )


def _turbo(facts: Setup) -> Finding:
    if not facts.turbo:
        return Finding("turbo", Status.FINE, "off" if facts.turbo is False else "none to switch")
    intel = setup.SYSTEM / "intel_pstate/no_turbo"
    fix = (
        shell.write("1", str(intel))
        if intel.exists()
        else shell.write("0", f"{setup.SYSTEM}/cpufreq/boost")
    )
    return Finding("turbo", Status.DEGRADED, "on", "latencies vary with the temperature", fix)


def _smt(facts: Setup) -> Finding:
    if not facts.smt:
        return Finding("smt", Status.FINE, "off")
    fix = shell.write("off", str(SMT_CONTROL))
    return Finding("smt", Status.DEGRADED, "on", "what a sibling thread does is in latencies", fix)


def _load() -> Finding:
    load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    found = f"{load:.1f} runnable threads in the last minute, {cpus} CPUs"
    if load <= BUSY * cpus:
        return Finding("load", Status.FINE, found)
    means = "what else runs is in latencies; wait for it, or end what is yours"
    return Finding(
        "load", Status.DEGRADED, found, means, "ps -e --sort=-pcpu -o pcpu,pid,comm | head"
    )


def _leftovers(settings: Settings) -> Finding:
    try:
        found = leftovers.find(settings.runtime).lines() if settings.runtime.exists() else []
    except (HostError, PermissionError):
        unseen = f"{settings.runtime} is not this user's to look into"
        return Finding("leftovers", Status.DEGRADED, unseen, "some may be in latencies")
    if not found:
        return Finding("leftovers", Status.FINE, "none")
    fix = f"{shlex.quote(str(Path(sys.executable).parent / 'kickbench'))} clean"
    means = "killed runs left it, and it may be in latencies"
    return Finding("leftovers", Status.DEGRADED, ", ".join(found), means, shell.as_root(fix))
