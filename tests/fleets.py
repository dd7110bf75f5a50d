# SPDX-License-Identifier: BSD-3-Clause
"""The status of an invented fleet, for tests."""

from __future__ import annotations

import dataclasses
from typing import Any

from bench_lib.fleet.facts import HostFacts
from bench_lib.fleet.status import (
    CampaignState,
    CampaignStatus,
    FleetStatus,
    HostState,
    HostStatus,
)
from bench_lib.fleet.work import Kind
from bench_lib.record import Kernel, Setup
from tests.make import KERNEL


def facts(name: str = "alpha", kernel: Kernel = KERNEL, **changes: Any) -> HostFacts:
    """What a host reports that offers both kinds of work."""
    made = HostFacts(
        name=name,
        machine_id=f"machine of {name}",
        boot_id="00000000-0000-0000-0000-000000000000",
        kernel=kernel,
        kinds=(Kind.HOST, Kind.LAB),
        room=1,
        kickbench="1.0",
        dask="2026.8.0",
        python="3.11.2",
        qemu="7.2.22",
        setup=Setup(),
        clock_ns=1_764_000_000_000_000_000,
    )
    return dataclasses.replace(made, **changes)


def host(of: HostFacts | str = "alpha", **changes: Any) -> HostStatus:
    """A host that has made three boots and waits for work."""
    made = HostStatus(
        facts=facts(of) if isinstance(of, str) else of,
        state=HostState.READY,
        reason=None,
        doing=(),
        since_s=300.0,
        boots=3,
        lost=0,
        failures=0,
        findings=(),
        notes=(),
    )
    return dataclasses.replace(made, **changes)


def campaign(**changes: Any) -> CampaignStatus:
    """A campaign that has made five of its boots."""
    made = CampaignStatus(
        id="0123456789ab",
        what="stop in blackhole under 6.1.0-56-amd64 (host)",
        state=CampaignState.RUNNING,
        boots=24,
        done=5,
        trials=30,
        lost=1,
        running=2,
        left_s=7300.0,
    )
    return dataclasses.replace(made, **changes)


def fleet(*hosts: HostStatus, **changes: Any) -> FleetStatus:
    """A fleet of these hosts."""
    made = FleetStatus(
        address="tls://10.0.0.1:8786",
        kickbench="1.0",
        started="2026-11-26T14:00:00+00:00",
        records="/var/lib/kickbench/records.jsonl",
        dashboard=None,
        hosts=hosts,
        campaigns=(),
        refused=(),
    )
    return dataclasses.replace(made, **changes)
