# SPDX-License-Identifier: BSD-3-Clause
"""How long trials take, by scenario and kind of guest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from bench_lib.record import (
    Host,
    Kernel,
    ManagerName,
    Outcome,
    Record,
    ScenarioName,
    Shape,
    place,
)


@dataclass(frozen=True)
class StageTime:
    """The median time of a stage over the trials that had it."""

    name: str
    median_ns: int


@dataclass(frozen=True)
class Pace:
    """How long trials of one scenario and one kind of guest took on one host, up to their clean-up.

    :ivar by_vcpu: the medians of staging, proof and request, each divided by the number of vCPUs.
    """

    kernel: Kernel
    host: Host
    scenario: ScenarioName
    manager: ManagerName
    shape: Shape
    trials: int
    median_ns: int
    stages: tuple[StageTime, ...]
    by_vcpu: tuple[StageTime, ...]

    @property
    def place(self) -> str:
        """The scenario and the guest: blackhole (4 vCPUs)."""
        return place(self.scenario, self.manager, self.shape)


PACED = {
    "staging": ("start", "guest-up", "prepare", "postcopy", "outage"),
    "proof": ("proof",),
    "request": ("request",),
}
"""The stages of a trial whose cost depends on the number of vCPUs."""


def paces(records: Iterable[Record]) -> list[Pace]:
    """Return where the time of trials goes. Lost trials do not count, because they ended early."""
    groups: dict[_Place, list[Record]] = {}
    for record in records:
        if record.outcome is not Outcome.LOST and record.stages:
            key = (record.kernel, record.host, record.scenario, record.manager, record.shape)
            groups.setdefault(key, []).append(record)
    return [_pace(key, group) for key, group in groups.items()]


_Place = tuple[Kernel, Host, ScenarioName, ManagerName, Shape]


def _pace(key: _Place, group: Sequence[Record]) -> Pace:
    stages: dict[str, list[int]] = {}
    for record in group:
        for stage in record.stages:
            stages.setdefault(stage.name, []).append(stage.end_ns - stage.start_ns)
    medians = {name: median(times) for name, times in stages.items()}
    vcpus = group[0].shape.vcpus
    return Pace(
        *key,
        trials=len(group),
        median_ns=round(median(record.stages[-1].end_ns for record in group)),
        stages=tuple(StageTime(name, round(ns)) for name, ns in medians.items()),
        by_vcpu=tuple(
            StageTime(name, round(sum(medians.get(each, 0) for each in parts) / vcpus))
            for name, parts in PACED.items()
        ),
    )
