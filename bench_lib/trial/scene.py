# SPDX-License-Identifier: BSD-3-Clause
"""What one trial is staged from, and what is there once it is staged."""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bench_lib.deadline import Deadline
from bench_lib.guest.qemu import Guest
from bench_lib.guest.workloads.workload import Watch, Workload
from bench_lib.migration import Manager, Migration
from bench_lib.network.link import Link
from bench_lib.network.outage import Mechanism
from bench_lib.network.traffic import Traffic
from bench_lib.ownership import Run
from bench_lib.record import Host, Setup
from bench_lib.trial.case import Case
from bench_lib.trial.timeline import Timeline

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """What all trials of a run share.

    :ivar workloads: by the name of the image.
    :ivar mechanism: how links are cut on this host; None where no trial needs a link.
    :ivar degradation: how they are made slow; None where no trial asks for that.
    """

    run: Run
    host: Host
    setup: Setup
    qemu: str
    workloads: dict[str, Workload]
    mechanism: Mechanism | None
    degradation: Mechanism | None


@dataclass(frozen=True)
class Staging:
    """What one trial is staged from.

    :ivar seq: the trial's number in its run.
    :ivar deadline: until which the scenario is staged and proved, or the trial is lost.
    :ivar stack: ends all that was started, in reverse order.
    """

    plan: Plan
    seq: int
    case: Case
    manager: Manager
    timeline: Timeline
    deadline: Deadline
    stack: AsyncExitStack

    @property
    def workload(self) -> Workload:
        """What the guest runs."""
        return self.plan.workloads[self.case.shape.image]


@dataclass(frozen=True)
class Scene:
    """The guest that a trial is about, up and running.

    :ivar run: which all processes of the trial belong to.
    :ivar guest: where requests go.
    :ivar tids: of its vCPU threads, in the order of the vCPUs.
    """

    run: Run
    guest: Guest
    tids: list[int]

    @property
    def watch(self) -> Watch:
        """Sees how the guest's workload is doing."""
        return self.guest.watch

    async def during(self, work: Coroutine[Any, Any, T], *, guest_may_end: bool = False) -> T:
        """Do `work` for as long as every QEMU of the scene lives that has to.

        :param guest_may_end: the guest's own end is what is waited for.
        :raise GuestDied: one ended.
        """
        return await work if guest_may_end else await self.guest.during(work)


@dataclass(frozen=True)
class MigrationScene(Scene):
    """A guest in the middle of a migration.

    :ivar traffic: shows whether the link passes anything.
    :ivar source_may_end: whether the scenario ends the source once the guest has left it.
    """

    link: Link = field(kw_only=True)
    traffic: Traffic = field(kw_only=True)
    migration: Migration = field(kw_only=True)
    source_may_end: bool = field(kw_only=True, default=False)

    @property
    def source(self) -> Guest:
        """Where the guest came from."""
        return self.migration.source.guest

    async def during(self, work: Coroutine[Any, Any, T], *, guest_may_end: bool = False) -> T:
        if not self.source_may_end:
            work = self.source.during(work)
        return await super().during(work, guest_may_end=guest_may_end)
