# SPDX-License-Identifier: BSD-3-Clause
"""What a trial is staged from, and the scene that the staging makes."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from bench_lib.deadline import Deadline
from bench_lib.guest.qemu import Guest
from bench_lib.guest.workloads.workload import Watch, Workload
from bench_lib.migration import Manager, Migration
from bench_lib.network.link import Link
from bench_lib.network.outage import Mechanism
from bench_lib.network.traffic import Traffic
from bench_lib.ownership import Run
from bench_lib.record import Host, Setup, Shape
from bench_lib.storage.store import Store
from bench_lib.trial.case import Case
from bench_lib.trial.timeline import Timeline

T = TypeVar("T")
StoreT = TypeVar("StoreT", bound=Store)


@dataclass(frozen=True)
class Plan:
    """What all trials of a run share.

    :ivar workloads: the workloads by the shapes of their guests.
    :ivar mechanism: how links are cut on this host; None if no trial needs a link.
    :ivar degradation: how links are made slow on this host; None if no trial needs that.
    :ivar untried: the cases that this host cannot try, and the reasons.
    """

    run: Run
    host: Host
    setup: Setup
    qemu: str
    workloads: Mapping[Shape, Workload]
    mechanism: Mechanism | None
    degradation: Mechanism | None
    untried: Mapping[Case, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Staging:
    """What one trial is staged from.

    :ivar seq: the number of the trial in its run.
    :ivar deadline: the deadline for staging and proving the scenario; after it the trial is lost.
    :ivar stack: the exit stack that ends everything that the trial started, in reverse order.
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
        """The workload of the trial's guest."""
        return self.plan.workloads[self.case.shape]

    @property
    def state(self) -> Path | None:
        """The saved state that the guest starts from; None if it boots."""
        return None if self.case.boots else self.workload.state


@dataclass(frozen=True)
class Scene:
    """The running guest of a trial.

    :ivar run: the run that all processes of the trial belong to.
    :ivar guest: the guest that the request is made to.
    :ivar tids: the ids of its vCPU threads, in the order of the vCPUs.
    """

    run: Run
    guest: Guest
    tids: list[int]

    @property
    def vcpus(self) -> dict[int, int]:
        """The numbers of the vCPUs by the ids of their threads."""
        return {tid: number for number, tid in enumerate(self.tids)}

    @property
    def first(self) -> Guest:
        """The guest that was started, booted or restored first."""
        return self.guest

    @property
    def watch(self) -> Watch:
        """Observes the guest's workload."""
        return self.guest.watch

    async def during(
        self,
        work: Coroutine[Any, Any, T],
        *,
        guest_may_end: bool = False,
        completing: bool = False,
    ) -> T:
        """Do `work` while every QEMU of the scene lives that has to live.

        :param guest_may_end: whether the guest may end, because `work` waits for its end.
        :param completing: whether `work` completes the migration, after which a manager may end the
            source.
        :raise GuestDied: a QEMU ended.
        """
        return await work if guest_may_end else await self.guest.during(work)


@dataclass(frozen=True)
class MigrationScene(Scene):
    """A guest in the middle of a migration.

    :ivar link: the link between the two sides.
    :ivar traffic: proves whether the link passes data.
    :ivar source_may_end: whether the scenario kills the source after the guest has left it.
    """

    link: Link = field(kw_only=True)
    traffic: Traffic = field(kw_only=True)
    migration: Migration = field(kw_only=True)
    source_may_end: bool = field(kw_only=True, default=False)

    @property
    def first(self) -> Guest:
        return self.source

    @property
    def source(self) -> Guest:
        """The guest at the source of the migration."""
        return self.migration.source.guest

    async def during(
        self,
        work: Coroutine[Any, Any, T],
        *,
        guest_may_end: bool = False,
        completing: bool = False,
    ) -> T:
        if not (self.source_may_end or (completing and self.migration.ends_source)):
            work = self.source.during(work)
        return await super().during(work, guest_may_end=guest_may_end, completing=completing)


@dataclass(frozen=True)
class StorageScene(Scene, Generic[StoreT]):
    """A guest whose memory comes from a store that can stop answering."""

    store: StoreT = field(kw_only=True)

    async def during(
        self,
        work: Coroutine[Any, Any, T],
        *,
        guest_may_end: bool = False,
        completing: bool = False,
    ) -> T:
        guarded = super().during(work, guest_may_end=guest_may_end, completing=completing)
        return await self.store.during(guarded)
