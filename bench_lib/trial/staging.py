"""Brings a guest into a scenario, stage by stage, and owns all that this takes."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from bench_lib.deadline import Deadline, together
from bench_lib.errors import MigrationFailed
from bench_lib.guest import qemu
from bench_lib.guest.image import LoadedImage
from bench_lib.guest.qemu import Guest, GuestConfig
from bench_lib.migration import Migration, Phase
from bench_lib.network import link
from bench_lib.network.link import Link
from bench_lib.network.outage import Mechanism, Traffic
from bench_lib.ownership import Run
from bench_lib.record import Host, ScenarioName, Setup
from bench_lib.trial.case import Case
from bench_lib.trial.requests import REQUESTS
from bench_lib.trial.timeline import Timeline

T = TypeVar("T")

PASSES = 2
"""Passes that prove a guest up: by the second it has read back all that it wrote."""


@dataclass(frozen=True)
class Plan:
    """What all trials of a run share.

    :ivar images: the guest images by name.
    :ivar mechanism: how links are cut on this host.
    :ivar degradation: how they are made slow; None where no trial asks for that.
    """

    run: Run
    host: Host
    setup: Setup
    qemu: str
    images: dict[str, LoadedImage]
    mechanism: Mechanism
    degradation: Mechanism | None


@dataclass(frozen=True)
class Pair:
    """Two guests, the link between them, and the migration over it."""

    link: Link
    traffic: Traffic
    migration: Migration

    def both_in(self, phase: Phase) -> None:
        """:raise MigrationFailed: a side is not in `phase`."""
        for side in self.migration.sides:
            if side.phase is not phase:
                raise MigrationFailed(
                    f"{side.guest.name} was in {side.phase.value} instead of {phase.value}."
                )


@dataclass(frozen=True)
class Scene:
    """The guest that a trial is about, up and running.

    :ivar guest: where requests go.
    :ivar tids: of its vCPU threads.
    :ivar pair: None where there is no migration.
    """

    plan: Plan
    case: Case
    guest: Guest
    tids: list[int]
    pair: Pair | None

    @property
    def image(self) -> LoadedImage:
        return self.plan.images[self.case.shape.image]

    async def during(self, work: Coroutine[Any, Any, T], *, guest_may_end: bool = False) -> T:
        """Do `work` for as long as every QEMU of the scene lives.

        :param guest_may_end: the guest's own end is what is waited for.
        :raise GuestDied: one ended.
        """
        if self.pair is not None:
            work = self.pair.migration.source.guest.during(work)
        if not guest_may_end:
            work = self.guest.during(work)
        return await work


async def start(
    plan: Plan, seq: int, case: Case, timeline: Timeline, deadline: Deadline, stack: AsyncExitStack
) -> Scene:
    """Start fresh guests for `case`, and wait until the one that runs has shown that it does.

    :param stack: ends all that was started, also what was when this raises.
    :raise TrialLost: they were not up before the deadline.
    """
    asking = REQUESTS[case.request]
    target = GuestConfig(
        plan.run.name(seq, "destination"),
        plan.qemu,
        plan.images[case.shape.image],
        case.shape,
        terminal=asking.needs_terminal,
        gdbstub=asking.needs_gdbstub,
    )
    if case.scenario is ScenarioName.IDLE:
        return await _start_one(plan, case, target, timeline, deadline, stack)
    return await _start_pair(plan, seq, case, target, timeline, deadline, stack)


async def _start(
    plan: Plan, stack: AsyncExitStack, deadline: Deadline, *configs: GuestConfig
) -> list[Guest]:
    """Start guests side by side."""
    guests = await together(
        *(stack.enter_async_context(qemu.started(plan.run, config, deadline)) for config in configs)
    )
    # The first things to be undone: all die at once instead of one after the other is reaped.
    for guest in guests:
        stack.callback(guest.child.signal, signal.SIGKILL)
    return guests


async def _start_one(
    plan: Plan,
    case: Case,
    target: GuestConfig,
    timeline: Timeline,
    deadline: Deadline,
    stack: AsyncExitStack,
) -> Scene:
    with timeline.stage("start"):
        (guest,) = await _start(plan, stack, deadline, target)
    with timeline.stage("guest-up"):
        tids = await guest.during(guest.vcpu_tids(deadline))
        await guest.during(guest.serial.passes(case.shape.vcpus, PASSES, deadline))
    return Scene(plan, case, guest, tids, pair=None)


async def _start_pair(
    plan: Plan,
    seq: int,
    case: Case,
    target: GuestConfig,
    timeline: Timeline,
    deadline: Deadline,
    stack: AsyncExitStack,
) -> Scene:
    with timeline.stage("start"):
        ends = stack.enter_context(link.joined(plan.run, seq))
        traffic = Traffic(ends, stack)
        configs = [
            GuestConfig(
                plan.run.name(seq, "source"),
                plan.qemu,
                target.image,
                case.shape,
                netns_fd=ends.source.fd,
            ),
            dataclasses.replace(target, incoming=True, netns_fd=ends.destination.fd),
        ]
        source, destination = await _start(plan, stack, deadline, *configs)
        migration = Migration.between(source, destination, stack)

    async def guest_up() -> list[int]:
        await migration.configure(ends.destination.address, case.shape, deadline)
        tids = await destination.vcpu_tids(deadline)
        await source.serial.passes(case.shape.vcpus, PASSES, deadline)
        return tids

    with timeline.stage("guest-up"):
        tids = await migration.during(guest_up())
    return Scene(plan, case, destination, tids, Pair(ends, traffic, migration))
