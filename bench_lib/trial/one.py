# SPDX-License-Identifier: BSD-3-Clause
"""One trial, from its case to its record."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import bench_lib
from bench_lib import process
from bench_lib.deadline import Deadline
from bench_lib.errors import MigratedWhole, TrialLost
from bench_lib.guest.workloads.workload import Watch, Workload
from bench_lib.host import identity
from bench_lib.migration import Manager
from bench_lib.record import FollowUp, Outcome, Record, Recovery
from bench_lib.trial.case import Case
from bench_lib.trial.measurement import LATE_S, Measurement, follow_up, measure
from bench_lib.trial.requests.request import Request
from bench_lib.trial.requests.table import MAKERS
from bench_lib.trial.scenarios.scenario import Scenario
from bench_lib.trial.scenarios.table import STAGERS
from bench_lib.trial.scene import Plan, Scene, Staging, StorageScene
from bench_lib.trial.timeline import Timeline
from bench_lib.units import NS_PER_S

_log = logging.getLogger(__name__)

STAGINGS = 3
"""The most stagings of one trial. A trial is staged again if its migration completed before the
switch, so that no page is missing. That says nothing about the kernel. It happened in 1 of 60
trials on a very busy host."""

RELEASED_S = 0.01
"""Seconds to wait for an answer after the end of the stall."""


@dataclass(frozen=True)
class Limits:
    """The time limits of a trial.

    :ivar staging_s: seconds to stage and prove the scenario, or the trial is lost.
    :ivar deadline_s: seconds from the request to its answer, or the request counts as hung.
    :ivar then_s: the same for the second request; 0 without one.
    """

    staging_s: float
    deadline_s: float
    then_s: float


@dataclass
class _Findings:
    """What is known about a trial so far. The record of a lost trial has it too."""

    measured: Measurement
    qemu: str | None = None
    manager_version: str | None = None
    outage: str | None = None
    recovery: Recovery | None = None
    watch: Watch | None = None
    tool: str | None = None
    store: str | None = None
    restored: bool = False
    then: FollowUp | None = None


async def trial(plan: Plan, manager: Manager, seq: int, case: Case, limits: Limits) -> Record:
    """Stage the scenario, make the request, and return the record of it.

    When this returns or raises, everything that the trial started has ended.

    :raise HostError: this host cannot run trials at all.
    """
    started = datetime.now(UTC)
    timeline = Timeline()
    before = {each.pid for each in process.survivors()}
    deadline = Deadline.after(limits.staging_s)
    try:
        for stagings_left in reversed(range(STAGINGS)):
            found = _Findings(Measurement())
            stack = AsyncExitStack()
            staging = Staging(plan, seq, case, manager, timeline, deadline, stack)
            try:
                await _run(staging, limits, found)
                break
            except MigratedWhole as error:
                if not stagings_left or found.measured.outcome is not None:
                    raise
                _log.info("Trial %d is staged again: %s", seq, error)
            finally:
                with timeline.stage("release"):
                    await stack.aclose()
    except TrialLost as error:
        found.measured.lose(str(error))
        if found.watch is not None and found.watch.damage is not None:
            # The damage is a better reason, and may be why the trial was lost.
            found.measured.lose(found.watch.damage)
            found.recovery = Recovery(None, None, "damaged", damage=found.watch.damage)
    measured = found.measured
    assert measured.outcome is not None
    return Record(
        run_id=plan.run.id,
        seq=seq,
        request=case.request,
        scenario=case.scenario,
        shape=case.shape,
        outcome=measured.outcome,
        reason=measured.reason,
        latency_ns=measured.latency_ns,
        deadline_ns=round(limits.deadline_s * NS_PER_S),
        kernel=identity.booted(),
        boot_id=identity.boot_id(),
        host=plan.host,
        qemu=found.qemu,
        outage=found.outage,
        evidence=measured.evidence(),
        stages=timeline.stages,
        started=started.isoformat(timespec="milliseconds"),
        recovery=found.recovery,
        resolution_ns=measured.reply.resolution_ns if measured.reply else None,
        setup=plan.setup,
        tool=found.tool,
        manager=case.manager,
        late_ns=measured.late_ns,
        kickbench=bench_lib.__version__,
        image_sha256=staging.workload.sha256,
        ended_ns=measured.ended_ns,
        manager_version=found.manager_version,
        then=found.then,
        guest_kernel=staging.workload.kernel,
        guest_start=_start(staging.workload, found),
        guest_boot_ns=staging.workload.boot_ns if found.restored else None,
        store=found.store,
        tried=case not in plan.untried,
        machine_id=identity.machine_id_if_known(),
        survivors=tuple(str(each) for each in process.survivors() if each.pid not in before),
    )


def _start(workload: Workload, found: _Findings) -> Literal["booted", "restored"] | None:
    """How the guest came up; None if it has no kernel of its own, or did not come up."""
    if workload.kernel is None or found.watch is None:
        return None
    return "restored" if found.restored else "booted"


async def _run(staging: Staging, limits: Limits, found: _Findings) -> None:
    """Do everything but the clean-up of a trial."""
    case, timeline, stack = staging.case, staging.timeline, staging.stack
    if case in staging.plan.untried:
        raise TrialLost(staging.plan.untried[case])
    scenario = STAGERS[case.scenario](staging)
    scene = await scenario.stage()
    found.qemu = scene.guest.control.qemu_version
    found.manager_version = scene.guest.manager_version
    found.restored = scene.first.restored
    found.watch = scene.watch
    if isinstance(scene, StorageScene):
        found.store = scene.store.description
    request = MAKERS[case.request](scene)
    second = MAKERS[case.then](scene) if case.then else None
    with timeline.stage("prepare"):
        for each in filter(None, (request, second)):
            await scene.during(each.prepare(staging.deadline, stack))
    found.tool = request.tool
    # The exit stack calls this before it kills the guests, and before it ends the request's tool.
    stack.push_async_callback(_release, scenario, scene, request, found)
    found.outage = await scenario.strand(scene)
    await measure(staging, scene, request, limits.deadline_s, found.measured)
    if case.then and second and found.measured.outcome is not Outcome.DIED:
        found.then = await follow_up(staging, scene, case.then, second, limits.then_s)
        await found.measured.look_for_late_answer(request, LATE_S)
    await scene.watch.look()
    if scene.watch.damage is not None:
        found.recovery = Recovery(None, None, "damaged", damage=scene.watch.damage)
    elif case.recovers and found.measured.outcome is not Outcome.DIED:
        with timeline.stage("recovery"):
            found.recovery = await _recovered(
                scenario, scene, request, found.measured, limits.staging_s
            )


async def _release(
    scenario: Scenario[Any], scene: Scene, request: Request, found: _Findings
) -> None:
    """End the stall, and look for an answer that only the stall had delayed.

    If the stall cannot be ended, the results are still valid.
    """
    try:
        await scenario.release(scene)
    except TrialLost as error:
        _log.warning("The stall of %s could not be ended: %s", scenario.name, error)
    if found.recovery is None:
        await found.measured.look_for_late_answer(request, RELEASED_S)


async def _recovered(
    scenario: Scenario[Any], scene: Scene, request: Request, measured: Measurement, limit_s: float
) -> Recovery:
    """Recover the guest. If that fails, the results from before are still valid."""
    answered = measured.reply is not None or measured.late_ns is not None
    try:
        recovery = scenario.recover(scene, request, limit_s, answered=answered)
        return await scene.during(recovery, completing=True)
    except TrialLost as error:
        if (damage := scene.watch.damage) is not None:
            return Recovery(None, None, "damaged", damage=damage)
        return Recovery(None, None, None, failure=str(error))
