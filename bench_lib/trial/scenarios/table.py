# SPDX-License-Identifier: BSD-3-Clause
"""The class of each scenario."""

from __future__ import annotations

from typing import Any

from bench_lib.record import ScenarioName
from bench_lib.trial.scenarios.at_switch import CutAtSwitch, DeadSource, FrozenSource
from bench_lib.trial.scenarios.idle import Idle
from bench_lib.trial.scenarios.migration import (
    Blackhole,
    BlackholeReturn,
    Degraded,
    Flapping,
    LinkDown,
    Paused,
    PausedCommand,
    PausedTimeout,
    Postcopy,
)
from bench_lib.trial.scenarios.scenario import Scenario
from bench_lib.trial.scenarios.storage import (
    FuseHold,
    FuseStopped,
    FuseSync,
    MemoryHigh,
    NfsHard,
    NfsSoft,
    NfsWriteback,
    SwapAnonymous,
    SwapMemfd,
)

STAGERS: dict[ScenarioName, type[Scenario[Any]]] = {
    each.name: each
    for each in (
        Idle,
        Postcopy,
        Blackhole,
        BlackholeReturn,
        LinkDown,
        Paused,
        PausedTimeout,
        PausedCommand,
        Degraded,
        Flapping,
        FrozenSource,
        DeadSource,
        CutAtSwitch,
        FuseHold,
        FuseStopped,
        FuseSync,
        NfsHard,
        NfsSoft,
        NfsWriteback,
        SwapAnonymous,
        SwapMemfd,
        MemoryHigh,
    )
}
