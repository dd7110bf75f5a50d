# SPDX-License-Identifier: BSD-3-Clause
"""The scenarios that there are, without what stages them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bench_lib.host.need import Need
from bench_lib.record import ScenarioName

SOON_S = 0.005
"""Seconds between two looks at a thread that must agree, where nothing more can arrive."""

LATER_S = 0.5
"""The same where a page that nobody asked for may still arrive now and then."""


class Stuck(Enum):
    """What has to be proved of every vCPU before the request is made."""

    RUNS = "runs"
    """It runs its guest, be it only for moments."""
    ANYWHERE = "anywhere"
    """It is stuck; how, is for the kernel to show."""
    ON_PATH = "on-path"
    """It is stuck in the way that its workload prescribes, if it prescribes one."""


@dataclass(frozen=True)
class ScenarioDescription:
    """One scenario.

    :ivar needs: what a host must have for it.
    :ivar proves: of every vCPU, before the request.
    :ivar guests: QEMUs that run at once.
    :ivar unrecoverable: why the guest cannot be recovered after the request; None where it can.
    :ivar apart_s: seconds between the two looks at a thread that must agree.
    """

    needs: frozenset[Need]
    proves: Stuck
    guests: int = 2
    unrecoverable: str | None = None
    apart_s: float = SOON_S


MIGRATION = frozenset({Need.NETWORK, Need.NAMESPACES, Need.USERFAULTFD})
"""What scenarios with a migration need, over a link that is made and broken for them."""

_STUCK = ScenarioDescription(MIGRATION, Stuck.ON_PATH)
_RUNS = ScenarioDescription(MIGRATION, Stuck.RUNS)
_ANYWHERE = ScenarioDescription(MIGRATION, Stuck.ANYWHERE)

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
        unrecoverable="the guest is lost for good: its missing pages died with the source",
    ),
    ScenarioName.CUT_AT_SWITCH: _ANYWHERE,
}
