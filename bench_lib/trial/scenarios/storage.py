# SPDX-License-Identifier: BSD-3-Clause
"""Scenarios in which a guest's memory comes from a store that stops answering."""

from __future__ import annotations

import dataclasses
import time
from abc import abstractmethod
from typing import ClassVar, Generic, TypeVar

from bench_lib.deadline import Deadline
from bench_lib.errors import RecoveryFailed, TrialLost
from bench_lib.guest.qemu import GuestConfig
from bench_lib.record import Backing, Recovery, ScenarioName
from bench_lib.storage import fuse, mounts
from bench_lib.storage.fuse import FuseStore
from bench_lib.storage.nfs import NfsStore, NfsWritebackStore, Options
from bench_lib.storage.store import Store
from bench_lib.storage.swap import SwapStore
from bench_lib.storage.throttle import ThrottlingCgroup
from bench_lib.trial.requests.request import Request
from bench_lib.trial.scenarios.scenario import Scenario
from bench_lib.trial.scene import StorageScene

StoreT = TypeVar("StoreT", bound=Store)


class StorageScenario(Scenario[StorageScene[StoreT]], Generic[StoreT]):
    """One guest, and a store for its memory that stops answering once the guest has written it.

    So the memory is whole at the end only if the store gives back what the guest has written.

    :cvar first_pass: whether the store already stalls before the guest runs at all.
    """

    first_pass: ClassVar[bool] = False

    async def stage(self) -> StorageScene[StoreT]:
        staging = self.staging
        with staging.timeline.stage("start"):
            store = await self._store()
            config = dataclasses.replace(
                self._spec(), memory_file=store.memory_file, paused=self.first_pass
            )
            starting = staging.manager.start(config, staging.deadline, staging.stack)
            guest = await store.during(starting)

        async def guest_up() -> list[int]:
            tids = await guest.vcpu_tids(staging.deadline)
            if not self.first_pass:
                await guest.watch.ready(staging.deadline)
            return tids

        with staging.timeline.stage("guest-up"):
            tids = await store.during(guest.during(guest_up()))
        # The stall has to end before anything is killed, even if the trial is lost half-way.
        staging.stack.callback(mounts.quietly, store.release)
        return StorageScene(staging.plan.run, guest, tids, store=store)

    @abstractmethod
    async def _store(self) -> StoreT:
        """Start the store.

        :raise StorageFailed: it did not start.
        """

    async def strand(self, scene: StorageScene[StoreT]) -> str | None:
        deadline = self.staging.deadline

        async def stall() -> None:
            await scene.store.stall(scene.guest.child.pid, deadline)
            if self.first_pass:
                await scene.guest.control.execute("cont", deadline=deadline)

        with self.staging.timeline.stage("outage"):
            await scene.during(stall())
        return scene.store.mechanism

    async def release(self, scene: StorageScene[StoreT]) -> None:
        scene.store.release()

    async def recover(
        self, scene: StorageScene[StoreT], request: Request, limit_s: float, *, answered: bool
    ) -> Recovery:
        await scene.watch.resume()
        answered_ns = next_pass_ns = None
        if answered:
            await request.undo(Deadline.after(limit_s))
        awaited = not answered and not request.withdraw()
        scene.store.release()
        released_ns = time.monotonic_ns()
        try:
            if awaited:
                late = await request.answer(Deadline.after(limit_s))
                if late is None:
                    raise RecoveryFailed("The store answers again, but the request is unanswered.")
                answered_ns = late.answered_ns - released_ns
                await request.undo(Deadline.after(limit_s))
            await scene.watch.continues(Deadline.after(limit_s))
            next_pass_ns = time.monotonic_ns() - released_ns
            await scene.watch.verified(Deadline.after(limit_s))
        except TrialLost as error:
            if scene.watch.damage is None:
                raise await self._why_not(scene, error, limit_s) from None
            return Recovery(None, next_pass_ns, "damaged", answered_ns, damage=scene.watch.damage)
        return Recovery(None, next_pass_ns, "whole", answered_ns)

    async def _why_not(
        self, scene: StorageScene[StoreT], error: TrialLost, limit_s: float
    ) -> TrialLost:
        """Return why the guest does not go on: the error, or the state in which QEMU holds it."""
        try:
            status = await scene.guest.control.execute(
                "query-status", deadline=Deadline.after(limit_s)
            )
        except TrialLost:
            return error
        if status["running"]:
            return error
        return RecoveryFailed(
            "The store answers again, but the guest does not run any more: QEMU reports "
            f"{status['status']}."
        )


class FuseHold(StorageScenario[FuseStore]):
    """The server leaves reads unanswered. A page fault waits for the read-ahead that needs them."""

    name = ScenarioName.FUSE_HOLD
    kind: ClassVar[fuse.Stall] = fuse.Stall.HOLD

    async def _store(self) -> FuseStore:
        staging = self.staging
        return await FuseStore.start(
            staging.plan.run,
            staging.plan.run.name(staging.seq, "store"),
            staging.case.shape.memory_mib,
            self.kind,
            staging.workload.span_start,
            staging.deadline,
            staging.stack,
        )


class FuseStopped(FuseHold):
    """The server is stopped by a signal, and answers nothing."""

    name = ScenarioName.FUSE_STOPPED
    kind = fuse.Stall.STOP


class FuseSync(FuseHold):
    """The server leaves reads unanswered, and a page fault itself reads the page."""

    name = ScenarioName.FUSE_SYNC
    kind = fuse.Stall.SYNC


class SwapAnonymous(StorageScenario[SwapStore]):
    """The guest's memory is anonymous, and the swap device that it is on is suspended."""

    name = ScenarioName.SWAP_ANONYMOUS
    backing: ClassVar[Backing] = Backing.ANONYMOUS

    async def _store(self) -> SwapStore:
        staging = self.staging
        name = staging.plan.run.name(staging.seq, "store")
        size_mib = staging.case.shape.memory_mib
        return SwapStore(name, size_mib, self.backing, staging.stack)

    def _spec(self) -> GuestConfig:
        shape = dataclasses.replace(self.staging.case.shape, backing=self.backing)
        return dataclasses.replace(super()._spec(), shape=shape)


class SwapMemfd(SwapAnonymous):
    """The guest's memory is a memfd, and the swap device that it is on is suspended."""

    name = ScenarioName.SWAP_MEMFD
    backing = Backing.MEMFD


class NfsHard(StorageScenario[NfsStore]):
    """The guest's memory is a file on NFS, and no packet reaches the server any more."""

    name = ScenarioName.NFS_HARD
    options: ClassVar[Options] = Options.HARD
    kind: ClassVar[type[NfsStore]] = NfsStore

    async def _store(self) -> NfsStore:
        staging = self.staging
        plan, size_mib = staging.plan, staging.case.shape.memory_mib
        assert plan.mechanism is not None
        return self.kind(
            plan.run,
            staging.seq,
            size_mib,
            staging.workload.span_start,
            self.options,
            plan.mechanism,
            staging.stack,
        )


class NfsSoft(NfsHard):
    """The same, but the client gives up after a while, and the guest cannot go on."""

    name = ScenarioName.NFS_SOFT
    options = Options.SOFT


class NfsWriteback(NfsHard):
    """The guest's memory is a file on NFS, and waits for the server before a page can change."""

    name = ScenarioName.NFS_WRITEBACK
    kind = NfsWritebackStore


class MemoryHigh(StorageScenario[ThrottlingCgroup]):
    """The guest's first pass takes more memory than memory.high of its cgroup allows.

    Only memory that a member of the cgroup takes counts, so QEMU is in it before the guest runs.
    """

    name = ScenarioName.MEMORY_HIGH
    first_pass = True

    async def _store(self) -> ThrottlingCgroup:
        staging = self.staging
        name = staging.plan.run.name(staging.seq, "store")
        size_mib = staging.case.shape.memory_mib
        return ThrottlingCgroup(staging.plan.run, name, size_mib, staging.stack)
