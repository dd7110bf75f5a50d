# SPDX-License-Identifier: BSD-3-Clause
"""What a trial is of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from bench_lib.errors import ImageError, NotRecoverable
from bench_lib.guest.workloads.description import HUGE_MIB, WORKLOADS
from bench_lib.record import Backing, ManagerName, RequestName, ScenarioName, Shape
from bench_lib.trial.requests.description import REQUESTS
from bench_lib.trial.scenarios.description import SCENARIOS

DEFAULT_SHAPE = Shape()


CORE_SCENARIOS = (ScenarioName.IDLE, ScenarioName.BLACKHOLE, ScenarioName.PAUSED)
"""The control, and the two kinds of outage that differ for QEMU."""

AT_SWITCH = (ScenarioName.FROZEN_SOURCE, ScenarioName.DEAD_SOURCE, ScenarioName.CUT_AT_SWITCH)
"""What fails before the guest runs again; the first stands for the others."""

PV_IMAGES = ("pv-steal-time", "pv-kvmclock")
"""Guests that share a page with KVM, as Linux guests do. Only at the switch is it missing."""

MOST = 100_000
"""Trials of one case that can be asked for at once: they take a day, and each has a record."""


@dataclass(frozen=True)
class Case:
    """What one trial is of.

    :ivar recover: whether the guest is recovered after the request, and checks its memory.
    :ivar manager: who runs the guest.
    :raise ImageError: there is no such guest.
    :raise BadShape: no guest can be of that shape.
    :raise NotRecoverable: nothing would be left to recover.
    """

    scenario: ScenarioName
    request: RequestName
    shape: Shape = DEFAULT_SHAPE
    recover: bool = False
    manager: ManagerName = ManagerName.QEMU

    def __post_init__(self) -> None:
        if (limits := WORKLOADS.get(self.shape.image)) is None:
            raise ImageError(
                f"There is no guest image {self.shape.image!r}; the images are "
                f"{', '.join(WORKLOADS)}."
            )
        limits.check(self.shape)
        if self.recover and REQUESTS[self.request].ends_guest:
            raise NotRecoverable(
                f"{self.request} ends the guest, so there is nothing to recover after it; "
                "leave out --recover."
            )
        if self.recover and (why := SCENARIOS[self.scenario].unrecoverable) is not None:
            raise NotRecoverable(
                f"In {self.scenario} {why}; leave out --recover, or take another scenario."
            )

    @property
    def name(self) -> str:
        """For people and for telling cases apart; the shape only where it is not the usual one."""
        parts = [f"{self.scenario}/{self.request}"]
        if self.shape != DEFAULT_SHAPE:
            parts.append(
                f"{self.shape.image},{self.shape.vcpus},{self.shape.memory_mib},"
                f"{self.shape.backing},{self.shape.preempt}"
            )
        if self.recover:
            parts.append("recover")
        return "/".join(parts)

    @property
    def huge_pages(self) -> int:
        """Huge pages of the host that its guests need at once."""
        if self.shape.backing is not Backing.HUGETLB:
            return 0
        return SCENARIOS[self.scenario].guests * self.shape.memory_mib // HUGE_MIB


def interleaved(cases: Sequence[Case], count: int) -> list[Case]:
    """`count` trials of each case, in turns, so that a host that drifts drifts in all of them."""
    return [case for _ in range(count) for case in cases]


def to_json(cases: Iterable[Case]) -> str:
    """As a lab is told."""
    return msgspec.json.encode(list(cases)).decode()


def from_json(text: str) -> list[Case]:
    """What `to_json` gave."""
    return msgspec.json.decode(text, type=list[Case])
