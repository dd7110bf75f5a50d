"""What a trial is of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from bench_lib.errors import BadShape, NotRecoverable
from bench_lib.record import Backing, RequestName, ScenarioName, Shape
from bench_lib.trial.requests import REQUESTS

DEFAULT_SHAPE = Shape()

HUGE_MIB = 2

MEMORY_MIB = range(4, 3073, HUGE_MIB)
"""Memory that a guest can have. Its page tables map huge pages below the hole for devices."""

MAX_VCPUS = 26
"""As many as there are letters, which the vCPUs' marks on the serial line are."""


CORE_SCENARIOS = (ScenarioName.IDLE, ScenarioName.BLACKHOLE, ScenarioName.PAUSED)
"""The control, and the two kinds of outage that differ for QEMU."""


@dataclass(frozen=True)
class Case:
    """What one trial is of.

    :ivar recover: whether the guest is recovered after the request, and checks its memory.
    :raise BadShape: no guest can be of that shape.
    :raise NotRecoverable: nothing would be left to recover.
    """

    scenario: ScenarioName
    request: RequestName
    shape: Shape = DEFAULT_SHAPE
    recover: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.shape.vcpus <= MAX_VCPUS:
            raise BadShape(f"A guest has 1 to {MAX_VCPUS} vCPUs, not {self.shape.vcpus}.")
        if self.shape.memory_mib not in MEMORY_MIB:
            raise BadShape(
                f"A guest has {MEMORY_MIB.start} to {MEMORY_MIB[-1]} MiB of memory, an even "
                f"number, not {self.shape.memory_mib}."
            )
        if self.recover and REQUESTS[self.request].ends_guest:
            raise NotRecoverable(
                f"{self.request} ends the guest, so there is nothing to recover after it; "
                "leave out --recover."
            )
        if self.recover and self.scenario is ScenarioName.IDLE:
            raise NotRecoverable(
                "In idle there is no migration to recover; leave out --recover, or take another "
                "scenario."
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
        guests = 1 if self.scenario is ScenarioName.IDLE else 2
        return guests * self.shape.memory_mib // HUGE_MIB


def interleaved(cases: Sequence[Case], count: int) -> list[Case]:
    """`count` trials of each case, in turns, so that a host that drifts drifts in all of them."""
    return [case for _ in range(count) for case in cases]


def to_json(cases: Iterable[Case]) -> str:
    """As a lab is told."""
    return msgspec.json.encode(list(cases)).decode()


def from_json(text: str) -> list[Case]:
    """What `to_json` gave."""
    return msgspec.json.decode(text, type=list[Case])
