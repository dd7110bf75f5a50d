"""One trial, from nothing to its record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime

from bench_lib import threads
from bench_lib.deadline import Deadline
from bench_lib.errors import AnswerLate, GuestDied, NotStuck, TrialLost
from bench_lib.guest.serial import SerialLine
from bench_lib.host import identity
from bench_lib.record import Evidence, Outcome, Record, Recovery, Role, ScenarioName
from bench_lib.threads import Part, ThreadState
from bench_lib.trial import proof
from bench_lib.trial.case import Case
from bench_lib.trial.failures import Failure, strand
from bench_lib.trial.recovery import recover
from bench_lib.trial.requests import REQUESTS, Asking, Reply
from bench_lib.trial.staging import Plan, Scene, start
from bench_lib.trial.timeline import Timeline

LATE_S = 1.0
"""How long after its deadline an answer is waited for that no vCPU keeps back."""


@dataclass(frozen=True)
class Limits:
    """Seconds. :ivar staging_s: until the scenario is staged and proved; then the trial is lost.

    :ivar deadline_s: until the answer; then the trial has hung.
    """

    staging_s: float
    deadline_s: float


@dataclass
class _Findings:
    """What is known of a trial so far. A lost one keeps what there was until then."""

    qemu: str | None = None
    outage: str | None = None
    before: list[ThreadState] = field(default_factory=list)
    after: list[ThreadState] = field(default_factory=list)
    reply: Reply | None = None
    outcome: Outcome | None = None
    recovery: Recovery | None = None
    serial: SerialLine | None = None
    tool: str | None = None


async def trial(plan: Plan, seq: int, case: Case, limits: Limits) -> Record:
    """Stage the scenario, make the request, and give the record of it.

    Nothing of the trial is left when this returns, or raises.

    :raise HostError: this host cannot run trials at all.
    """
    started = datetime.now(UTC)
    timeline = Timeline()
    found = _Findings()
    reason: str | None = None
    stack = AsyncExitStack()
    try:
        try:
            await _run(plan, seq, case, limits, timeline, found, stack)
        finally:
            with timeline.stage("release"):
                await stack.aclose()
    except TrialLost as error:
        found.outcome, found.reply, reason = Outcome.LOST, None, str(error)
        if found.serial is not None and found.serial.damage is not None:
            # It says more than that the trial is lost, and may be why.
            reason = found.serial.damage
            found.recovery = Recovery(None, None, "damaged", damage=reason)
    assert found.outcome is not None
    if found.reply is not None and found.reply.refusal is not None:
        reason = found.reply.refusal
    return Record(
        run_id=plan.run.id,
        seq=seq,
        request=case.request,
        scenario=case.scenario,
        shape=case.shape,
        outcome=found.outcome,
        reason=reason,
        latency_ns=found.reply.latency_ns if found.reply else None,
        deadline_ns=round(limits.deadline_s * 1e9),
        kernel=identity.booted(),
        boot_id=identity.boot_id(),
        host=plan.host,
        qemu=found.qemu,
        outage=found.outage,
        evidence=_evidence(found),
        stages=timeline.stages,
        started=started.isoformat(timespec="milliseconds"),
        recovery=found.recovery,
        resolution_ns=found.reply.resolution_ns if found.reply else None,
        setup=plan.setup,
        tool=found.tool,
    )


async def _run(
    plan: Plan,
    seq: int,
    case: Case,
    limits: Limits,
    timeline: Timeline,
    found: _Findings,
    stack: AsyncExitStack,
) -> None:
    """All of a trial but its end."""
    limit = Deadline.after(limits.staging_s)
    scene = await start(plan, seq, case, timeline, limit, stack)
    found.qemu = scene.guest.control.qemu_version
    found.serial = scene.guest.serial
    asking = REQUESTS[case.request](plan.run, scene.guest, scene.tids)
    with timeline.stage("prepare"):
        await scene.during(asking.prepare(limit, stack))
    found.tool = asking.tool
    failure = None
    if case.scenario is not ScenarioName.IDLE:
        failure, found.outage = await strand(scene, timeline, limit, stack)
    await _measure(scene, failure, asking, limit, limits.deadline_s, timeline, found)
    await scene.guest.serial.look()
    scene.guest.serial.check_memory()
    if case.recover:
        assert failure is not None
        answered = found.reply is not None
        with timeline.stage("recovery"):
            found.recovery = await _recovered(scene, failure, asking, answered, limits.staging_s)


async def _recovered(
    scene: Scene, failure: Failure, asking: Asking, answered: bool, limit_s: float
) -> Recovery:
    """What became of the guest. What was measured before stands, whatever that is."""
    try:
        return await scene.during(recover(scene, failure, asking, answered, limit_s))
    except TrialLost as error:
        if (damage := scene.guest.serial.damage) is not None:
            return Recovery(None, None, "damaged", damage=damage)
        return Recovery(None, None, None, failure=str(error))


async def _measure(
    scene: Scene,
    failure: Failure | None,
    asking: Asking,
    staging: Deadline,
    deadline_s: float,
    timeline: Timeline,
    found: _Findings,
) -> None:
    """Prove the scenario, make the request, look again."""
    pid = scene.guest.child.pid
    with timeline.stage("proof"):
        if failure is not None and failure.stuck:
            path = scene.image.entry.fault_path
            found.before = await scene.during(
                proof.stuck(pid, scene.tids, path, staging, failure.apart_s)
            )
        else:
            found.before = await scene.during(proof.alive(pid, scene.tids, staging))
    seen_ns = time.monotonic_ns()
    scene.guest.serial.pause()

    async def ask() -> Reply | None:
        await asking.send()
        return await asking.answer(Deadline.after(deadline_s))

    with timeline.stage("request"):
        found.reply = await scene.during(ask(), guest_may_end=asking.ends_guest)
    with timeline.stage("evidence"):
        elapsed_ns = time.monotonic_ns() - seen_ns
        if found.reply is None:
            found.outcome = await _how_it_hung(scene, asking, elapsed_ns, found)
            return
        if not asking.ends_guest:
            found.after = proof.look(pid, scene.tids)
    found.outcome = Outcome.RETURNED if found.reply.refusal is None else Outcome.REFUSED


async def _how_it_hung(scene: Scene, asking: Asking, elapsed_ns: int, found: _Findings) -> Outcome:
    """Whether the vCPUs sleep or spin.

    :raise AnswerLate: they do neither, for the answer has come meanwhile.
    :raise NotStuck: they do neither.
    """
    try:
        found.after = proof.look(scene.guest.child.pid, scene.tids)
        return proof.how_it_hung(found.before, found.after, elapsed_ns)
    except (NotStuck, GuestDied):
        late = await asking.answer(Deadline.after(LATE_S))
        if late is None:
            raise
        raise AnswerLate(
            f"The answer came after {late.latency_ns / 1e9:.1f} s, which is after the deadline, "
            "and no vCPU was stuck by then; set KICKBENCH_DEADLINE higher."
        ) from None


def _evidence(found: _Findings) -> Evidence:
    before: Sequence[ThreadState] = found.before
    return Evidence(
        before=tuple(
            threads.evidence(seen, Part(Role.VCPU, vcpu)) for vcpu, seen in enumerate(before)
        ),
        after=tuple(
            threads.evidence(now, Part(Role.VCPU, vcpu), then)
            for vcpu, (now, then) in enumerate(zip(found.after, before, strict=False))
        ),
    )
