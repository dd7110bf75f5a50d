"""Brings a guest into a scenario, stage by stage, and owns all that this takes."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from bench_lib.deadline import Deadline, together
from bench_lib.errors import MigrationFailed
from bench_lib.guest import qemu
from bench_lib.guest.image import LoadedImage
from bench_lib.guest.qemu import Guest, GuestConfig
from bench_lib.migration import PORT, Migration, Phase
from bench_lib.network import link, outage
from bench_lib.network.link import Link
from bench_lib.network.outage import Mechanism, Traffic
from bench_lib.ownership import Run
from bench_lib.record import Host, Scenario, Shape
from bench_lib.trial.timeline import Timeline

PASSES = 2
"""Passes that prove a guest up: by the second it has read back all that it wrote."""


@dataclass(frozen=True)
class Plan:
    """What all trials of a run share. :ivar mechanism: how links are cut on this host."""

    run: Run
    host: Host
    qemu: str
    image: LoadedImage
    shape: Shape
    mechanism: Mechanism


@dataclass(frozen=True)
class Staged:
    """A guest in its scenario.

    :ivar guest: where requests go.
    :ivar tids: of its vCPU threads.
    :ivar must_be_stuck: whether the scenario means that they are.
    :ivar outage: the mechanism of the failure, None where there is none.
    :ivar during: does work for as long as every QEMU of the scenario lives.
    """

    guest: Guest
    tids: list[int]
    must_be_stuck: bool
    outage: str | None
    during: Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]


@dataclass(frozen=True)
class _Pair:
    """Two guests in mid-migration, and the link between them."""

    plan: Plan
    link: Link
    traffic: Traffic
    migration: Migration


async def _cut(pair: _Pair, deadline: Deadline) -> str:
    """Silence: nothing passes and neither side has noticed."""
    outage.cut(pair.link, pair.plan.mechanism)
    await pair.traffic.prove_cut()
    for side in pair.migration.sides:
        if side.phase is not Phase.POSTCOPY:
            raise MigrationFailed(
                f"{side.guest.name} was in {side.phase.value} when the link had been cut."
            )
    return pair.plan.mechanism.name


async def _reset(pair: _Pair, deadline: Deadline) -> str:
    """A reset connection, which both sides have noticed."""
    outage.reset(pair.link, PORT)
    for side in pair.migration.sides:
        await side.reaches(Phase.PAUSED, deadline)
    return "tcp-reset"


_FAILURES: dict[Scenario, Callable[[_Pair, Deadline], Awaitable[str]]] = {
    Scenario.BLACKHOLE: _cut,
    Scenario.PAUSED: _reset,
}


async def stage(
    plan: Plan,
    seq: int,
    scenario: Scenario,
    timeline: Timeline,
    deadline: Deadline,
    stack: AsyncExitStack,
) -> Staged:
    """Bring fresh guests into `scenario`.

    :param stack: ends all that was started, also what was when this raises.
    :raise TrialLost: it could not be staged before the deadline.
    """
    if scenario is Scenario.IDLE:
        return await _stage_idle(plan, seq, timeline, deadline, stack)
    return await _stage_failure(plan, seq, scenario, timeline, deadline, stack)


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


async def _stage_idle(
    plan: Plan, seq: int, timeline: Timeline, deadline: Deadline, stack: AsyncExitStack
) -> Staged:
    with timeline.stage("start"):
        name = plan.run.name(seq, "destination")
        config = GuestConfig(name, plan.qemu, plan.image, plan.shape)
        (guest,) = await _start(plan, stack, deadline, config)
    with timeline.stage("guest-up"):
        tids = await guest.during(guest.vcpu_tids(deadline))
        await guest.during(guest.serial.passes(plan.shape.vcpus, PASSES, deadline))
    return Staged(guest, tids, must_be_stuck=False, outage=None, during=guest.during)


async def _stage_failure(
    plan: Plan,
    seq: int,
    scenario: Scenario,
    timeline: Timeline,
    deadline: Deadline,
    stack: AsyncExitStack,
) -> Staged:
    with timeline.stage("start"):
        ends = stack.enter_context(link.joined(plan.run, seq))
        traffic = Traffic(ends, stack)
        configs = [
            GuestConfig(
                plan.run.name(seq, role), plan.qemu, plan.image, plan.shape, incoming, end.fd
            )
            for role, end, incoming in (
                ("source", ends.source, False),
                ("destination", ends.destination, True),
            )
        ]
        source, destination = await _start(plan, stack, deadline, *configs)
        migration = Migration.between(source, destination, stack)
        pair = _Pair(plan, ends, traffic, migration)

    async def guest_up() -> list[int]:
        await migration.configure(ends.destination.address, plan.shape.memory_mib, deadline)
        tids = await destination.vcpu_tids(deadline)
        await source.serial.passes(plan.shape.vcpus, PASSES, deadline)
        return tids

    async def fail() -> str:
        await traffic.prove_open()
        return await _FAILURES[scenario](pair, deadline)

    with timeline.stage("guest-up"):
        tids = await migration.during(guest_up())
    with timeline.stage("postcopy"):
        await migration.during(migration.into_postcopy(ends.destination.address, deadline))
    with timeline.stage("outage"):
        mechanism = await migration.during(fail())
    return Staged(destination, tids, must_be_stuck=True, outage=mechanism, during=migration.during)
