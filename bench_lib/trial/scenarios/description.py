# SPDX-License-Identifier: BSD-3-Clause
"""The list of scenarios, without the code that stages them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from bench_lib.host.need import Need
from bench_lib.record import ScenarioName

SOON_S = 0.005
"""Seconds between the two equal looks that prove a vCPU stuck, unless `LATER_S` is needed."""

LATER_S = 0.5
"""Seconds between the two equal looks, if no page can arrive that a vCPU requests, but other pages
may. Such a page may be the one that a vCPU waits for, so the vCPU has to be seen for longer. If
requested pages can arrive, a vCPU may never be stuck for so long, and the proof needs `SOON_S`."""


class Stuck(Enum):
    """What has to be proved for every vCPU before the request is made."""

    RUNS = "runs"
    """It runs its guest, even if it is stuck for moments."""
    ANYWHERE = "anywhere"
    """It is stuck. How it got stuck depends on the kernel."""
    ON_PATH = "on-path"
    """It is stuck in the way that its workload prescribes, if it prescribes one."""


@dataclass(frozen=True)
class ScenarioDescription:
    """The description of one scenario.

    :ivar needs: what a host must have for the scenario.
    :ivar proves: what has to be proved for every vCPU before the request.
    :ivar guests: how many QEMUs run at the same time.
    :ivar unrecoverable: why the guest cannot be recovered after the request; None if it can.
    :ivar recovers: whether a guest that the request leaves alive is always recovered, because that
        takes no time to speak of.
    :ivar copies: how many more times the guest's memory is in the host's memory, because its store
        keeps it there.
    :ivar chooses_memory: whether the scenario chooses what the guest's memory is on the host.
    :ivar own_cgroup: whether the scenario keeps QEMU in a cgroup of its own.
    :ivar apart_s: seconds between the two equal looks that prove a vCPU stuck: `SOON_S` or
        `LATER_S`. `Stuck.RUNS` has no such proof.
    """

    needs: frozenset[Need]
    proves: Stuck
    guests: int = 2
    unrecoverable: str | None = None
    recovers: bool = False
    copies: int = 0
    chooses_memory: bool = False
    own_cgroup: bool = False
    apart_s: float = SOON_S


MIGRATION = frozenset({Need.NETWORK, Need.NAMESPACES, Need.USERFAULTFD})
"""The needs of scenarios that break a migration over a link of their own."""

FUSE = frozenset({Need.FUSE, Need.NAMESPACES})
"""The needs of scenarios in which the guest's memory is a file on FUSE."""

NFS = frozenset({Need.NFS, Need.NETWORK, Need.NAMESPACES})
"""The needs of scenarios in which the guest's memory is a file on NFS."""

_STUCK = ScenarioDescription(MIGRATION, Stuck.ON_PATH)
_RUNS = ScenarioDescription(MIGRATION, Stuck.RUNS)
_ANYWHERE = ScenarioDescription(MIGRATION, Stuck.ANYWHERE)
_STORED = ScenarioDescription(
    frozenset(), Stuck.ON_PATH, guests=1, recovers=True, copies=1, chooses_memory=True
)
_FUSE = replace(_STORED, needs=FUSE)
_NFS = replace(_STORED, needs=NFS)
_SWAP = replace(_STORED, needs=frozenset({Need.SWAP}))

SCENARIOS: dict[ScenarioName, ScenarioDescription] = {
    ScenarioName.IDLE: ScenarioDescription(
        frozenset(), Stuck.RUNS, guests=1, unrecoverable="there is no migration to recover"
    ),
    ScenarioName.POSTCOPY: _RUNS,
    ScenarioName.BLACKHOLE: _STUCK,
    ScenarioName.BLACKHOLE_RETURN: ScenarioDescription(MIGRATION, Stuck.ON_PATH, apart_s=LATER_S),
    ScenarioName.LINK_DOWN: _STUCK,
    ScenarioName.PAUSED: _STUCK,
    ScenarioName.PAUSED_TIMEOUT: _STUCK,
    ScenarioName.PAUSED_COMMAND: _STUCK,
    ScenarioName.DEGRADED: _STUCK,
    ScenarioName.FLAPPING: _STUCK,
    ScenarioName.FROZEN_SOURCE: _ANYWHERE,
    ScenarioName.DEAD_SOURCE: ScenarioDescription(
        MIGRATION,
        Stuck.ANYWHERE,
        unrecoverable="the guest cannot be recovered: its missing pages are lost with the source",
    ),
    ScenarioName.CUT_AT_SWITCH: _ANYWHERE,
    ScenarioName.FUSE_HOLD: _FUSE,
    ScenarioName.FUSE_STOPPED: _FUSE,
    ScenarioName.FUSE_SYNC: _FUSE,
    ScenarioName.NFS_HARD: _NFS,
    ScenarioName.NFS_SOFT: _NFS,
    ScenarioName.NFS_WRITEBACK: _NFS,
    ScenarioName.SWAP_ANONYMOUS: _SWAP,
    ScenarioName.SWAP_MEMFD: _SWAP,
    ScenarioName.MEMORY_HIGH: replace(
        _STORED,
        needs=frozenset({Need.MEMORY_CONTROL}),
        # The delay may come in get_user_pages() or on the way back to the guest.
        proves=Stuck.ANYWHERE,
        copies=0,
        own_cgroup=True,
    ),
}
