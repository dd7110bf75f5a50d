# SPDX-License-Identifier: BSD-3-Clause
"""Cases, which define what a trial measures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from bench_lib.errors import BadShape, NotOffered, NotRecoverable
from bench_lib.guest.workloads import description as workloads
from bench_lib.guest.workloads.description import HUGE_MIB
from bench_lib.record import Backing, ManagerName, RequestName, ScenarioName, Shape
from bench_lib.settings import Settings
from bench_lib.trial.requests import description as requests
from bench_lib.trial.requests.description import REQUESTS
from bench_lib.trial.scenarios.description import SCENARIOS

DEFAULT_SHAPE = Shape()


CORE_SCENARIOS = (ScenarioName.IDLE, ScenarioName.BLACKHOLE, ScenarioName.PAUSED)
"""The control, and two outages: one that QEMU does not notice, and one that it does."""

AT_SWITCH = (ScenarioName.FROZEN_SOURCE, ScenarioName.DEAD_SOURCE, ScenarioName.CUT_AT_SWITCH)
"""The scenarios that fail before the guest runs again. The first one represents the others."""

PV_IMAGES = ("pv-steal-time", "pv-kvmclock")
"""Guests that share a page with KVM, as Linux guests do. The page is missing only at the switch."""

MOST = 100_000
"""The most trials of one case per command. They take a day."""


MIB_PER_TIME, VCPUS_PER_TIME = 1024, 32
"""How much memory and how many vCPUs give a guest the usual time of staging once more."""


@dataclass(frozen=True)
class Case:
    """What one trial measures.

    :ivar recover: whether the guest is recovered after the request and then checks its memory.
    :ivar manager: the manager that runs the guest.
    :ivar boot: whether a Linux guest has to boot in the trial; see `boots`.
    :ivar then: a second request, made after the first one was answered or had hung.
    :raise ImageError: there is no such guest image.
    :raise BadShape: no guest can have that shape.
    :raise NotOffered: the manager cannot make the request, it cannot follow the first one, or it
        cannot be made in the scenario.
    :raise NotRecoverable: the guest cannot be recovered after the request, or in the scenario.
    """

    scenario: ScenarioName
    request: RequestName
    shape: Shape = DEFAULT_SHAPE
    recover: bool = False
    manager: ManagerName = ManagerName.QEMU
    then: RequestName | None = None
    boot: bool = False

    def __post_init__(self) -> None:
        workloads.find(self.shape.image).check(self.shape)
        if self.boot and self.shape.image != workloads.LINUX:
            raise BadShape(
                f"The image {self.shape.image} has nothing to boot; leave out --boot, or take "
                f"--image {workloads.LINUX}."
            )
        if self.shape.image == workloads.LINUX and self.manager is ManagerName.LIBVIRT:
            raise BadShape(
                "libvirt does not run Linux guests, because its own /run hides their initramfs; "
                "leave out --image or --manager."
            )
        if SCENARIOS[self.scenario].chooses_memory:
            self._check_storage()
        for request in (self.request, *([self.then] if self.then else [])):
            if not REQUESTS[request].offered_by(self.manager):
                others = ", ".join(requests.offered_by(self.manager))
                raise NotOffered(
                    f"{request} cannot be made to a guest that {self.manager} runs; the requests "
                    f"are {others}. --manager chooses what runs the guest."
                )
            if not possible(self.scenario, request):
                raise NotOffered(
                    f"{self.scenario} needs QEMU in a cgroup of its own, so {request} cannot "
                    "freeze it with another one; take another request or scenario."
                )
        if self.shape.preempt and self.manager is ManagerName.LIBVIRT:
            raise BadShape(
                "libvirt has no option for postcopy-preempt; leave out --preempt or --manager."
            )
        if self.then and REQUESTS[self.request].ends_guest:
            raise NotOffered(
                f"{self.request} ends the guest, so no request can follow; leave out --then."
            )
        if self.then and REQUESTS[self.then].gdbstub and REQUESTS[self.request].stops_guest:
            raise NotOffered(
                f"{self.request} stops the guest, and QEMU's gdbstub does not report a second "
                f"stop, so {self.then} would look like a hang; take another request for --then."
            )
        if self.then and REQUESTS[self.request].freezes and not REQUESTS[self.then].without_qemu:
            others = ", ".join(each for each in RequestName if REQUESTS[each].without_qemu)
            raise NotOffered(
                f"{self.request} freezes QEMU, so QEMU would not answer {self.then}; the requests "
                f"that the kernel answers alone are {others}."
            )
        if self.then is self.request and REQUESTS[self.request].memory_slot:
            raise NotOffered(
                f"QEMU has a slot for one memory module, so {self.then} cannot follow itself; "
                "take another request for --then."
            )
        if self.then and self.recover:
            raise NotRecoverable(
                "A guest is recovered after one request; leave out --then or --recover."
            )
        if self.recover and REQUESTS[self.request].ends_guest:
            raise NotRecoverable(
                f"{self.request} ends the guest, so there is nothing to recover after it; "
                "leave out --recover."
            )
        if self.recover and (why := SCENARIOS[self.scenario].unrecoverable) is not None:
            raise NotRecoverable(
                f"In {self.scenario} {why}; leave out --recover, or take another scenario."
            )

    def _check_storage(self) -> None:
        """Check what a scenario of the family storage cannot have.

        :raise BadShape: the guest cannot have that shape.
        :raise NotOffered: the manager cannot run such a guest.
        """
        if self.manager is ManagerName.LIBVIRT:
            raise NotOffered(
                f"{self.scenario} needs a guest that QEMU runs by itself; leave out --manager."
            )
        if self.shape.backing is not DEFAULT_SHAPE.backing:
            raise BadShape(
                f"{self.scenario} chooses what the guest's memory is; leave out --backing."
            )
        if self.shape.image == workloads.LINUX or self.shape.preempt:
            raise BadShape(
                f"{self.scenario} has no migration and no Linux guest; leave out --preempt, and "
                "take another image."
            )

    @property
    def recovers(self) -> bool:
        """Whether the guest is recovered after the request, on demand or always."""
        always = SCENARIOS[self.scenario].recovers and not self.then
        return self.recover or (always and not REQUESTS[self.request].ends_guest)

    @property
    def name(self) -> str:
        """A unique name of the case. It has the shape only if that is not the default."""
        parts = [f"{self.scenario}/{self.request}"]
        if self.shape != DEFAULT_SHAPE:
            parts.append(
                f"{self.shape.image},{self.shape.vcpus},{self.shape.memory_mib},"
                f"{self.shape.backing},{self.shape.preempt}"
            )
        if self.shape.cpu is not None:
            parts.append(f"cpu {self.shape.cpu}")
        if self.shape.work is not None:
            parts.append(self.shape.work)
        if self.recover:
            parts.append("recover")
        if self.manager is not ManagerName.QEMU:
            parts.append(self.manager)
        if self.then:
            parts.append(f"then {self.then}")
        if self.boot:
            parts.append("boot")
        return "/".join(parts)

    @property
    def boots(self) -> bool:
        """Whether the guest boots in the trial, even if it could start from a saved state.

        A QEMU with a slot for a memory module does not load the state of one without.
        """
        requests = (self.request, self.then)
        return self.boot or any(REQUESTS[each].memory_slot for each in requests if each)

    def deadline_s(self, settings: Settings) -> float:
        """Seconds until a trial stops waiting for the answer."""
        return requests.deadline_s(self.request, settings)

    @property
    def huge_pages(self) -> int:
        """How many huge pages of the host the guests need at the same time."""
        if self.shape.backing is not Backing.HUGETLB:
            return 0
        return self.guests * self.shape.memory_mib // HUGE_MIB

    @property
    def copies(self) -> int:
        """How many times the memory of a guest is in the host's memory at the same time."""
        dumped = any(REQUESTS[each].core for each in (self.request, self.then) if each)
        # The folder of a run, which a core is written to, is usually in memory.
        return self.guests + SCENARIOS[self.scenario].copies + dumped

    @property
    def guests(self) -> int:
        """How many guests run at the same time."""
        return SCENARIOS[self.scenario].guests

    @property
    def memory_mib(self) -> int:
        """How much of the host's memory each guest needs beside huge pages, in MiB."""
        return 0 if self.shape.backing is Backing.HUGETLB else self.shape.memory_mib

    def staging_s(self, settings: Settings) -> float:
        """Seconds until a trial that is not yet staged and proved is lost."""
        return staging_s(self.shape, settings)


def possible(scenario: ScenarioName, request: RequestName) -> bool:
    """Whether the request can be made in the scenario, whatever the guest and its manager are.

    A process is in one cgroup of a hierarchy, and in version 2 there is one hierarchy for all.
    """
    return not (SCENARIOS[scenario].own_cgroup and REQUESTS[request].freezes)


def staging_s(shape: Shape, settings: Settings) -> float:
    """Seconds until a trial with such a guest that is not yet staged and proved is lost.

    A big guest has more time: it takes longer to write and send its memory (about 5 s per GiB on a
    host with 2 CPUs), and many vCPUs that share a CPU take turns.
    """
    times = 1 + shape.memory_mib // MIB_PER_TIME + shape.vcpus // VCPUS_PER_TIME
    return times * settings.staging_s


def interleaved(cases: Sequence[Case], count: int) -> list[Case]:
    """Repeat each case `count` times, in turns, so that a drift of the host affects all cases."""
    return [case for _ in range(count) for case in cases]


def to_json(cases: Iterable[Case]) -> str:
    """Encode cases for a lab."""
    return msgspec.json.encode(list(cases)).decode()


def from_json(text: str) -> list[Case]:
    """Decode what `to_json` returned."""
    return msgspec.json.decode(text, type=list[Case])
