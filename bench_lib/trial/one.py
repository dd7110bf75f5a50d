"""One trial, from nothing to its record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime

from bench_lib import threads
from bench_lib.deadline import Deadline
from bench_lib.errors import TrialLost
from bench_lib.kernel import identity
from bench_lib.record import Evidence, Outcome, Record, Request, Scenario
from bench_lib.threads import ThreadState
from bench_lib.trial import proof
from bench_lib.trial.requests import REQUESTS, Reply
from bench_lib.trial.staging import Plan, Staged, stage
from bench_lib.trial.timeline import Timeline


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


async def trial(
    plan: Plan, seq: int, scenario: Scenario, request: Request, limits: Limits
) -> Record:
    """Stage `scenario`, make `request`, and give the record of it.

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
            limit = Deadline.after(limits.staging_s)
            scene = await stage(plan, seq, scenario, timeline, limit, stack)
            found.qemu = scene.guest.control.qemu_version
            found.outage = scene.outage
            await _measure(plan, scene, request, limit, limits.deadline_s, timeline, found)
            scene.guest.serial.check_memory()
        finally:
            with timeline.stage("release"):
                await stack.aclose()
    except TrialLost as error:
        found.outcome, found.reply, reason = Outcome.LOST, None, str(error)
    assert found.outcome is not None
    if found.reply is not None and found.reply.refusal is not None:
        reason = found.reply.refusal
    return Record(
        run_id=plan.run.id,
        seq=seq,
        request=request,
        scenario=scenario,
        shape=plan.shape,
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
    )


async def _measure(
    plan: Plan,
    scene: Staged,
    request: Request,
    staging: Deadline,
    deadline_s: float,
    timeline: Timeline,
    found: _Findings,
) -> None:
    """Prove the scenario, make the request, look again."""
    pid = scene.guest.child.pid
    with timeline.stage("proof"):
        if scene.must_be_stuck:
            path = plan.image.entry.fault_path
            found.before = await scene.during(proof.stuck(pid, scene.tids, path, staging))
        else:
            found.before = proof.look(pid, scene.tids)
    seen_ns = time.monotonic_ns()
    scene.guest.serial.pause()
    with timeline.stage("request"):
        deadline = Deadline.after(deadline_s)
        found.reply = await scene.during(REQUESTS[request](scene.guest, deadline))
    with timeline.stage("evidence"):
        elapsed_ns = time.monotonic_ns() - seen_ns
        found.after = proof.look(pid, scene.tids)
    if found.reply is None:
        found.outcome = proof.how_it_hung(found.before, found.after, elapsed_ns)
    elif found.reply.refusal is not None:
        found.outcome = Outcome.REFUSED
    else:
        found.outcome = Outcome.RETURNED


def _evidence(found: _Findings) -> Evidence:
    before: Sequence[ThreadState] = found.before
    return Evidence(
        before=tuple(threads.evidence_before(vcpu, seen) for vcpu, seen in enumerate(before)),
        after=tuple(
            threads.evidence_after(vcpu, now, then)
            for vcpu, (now, then) in enumerate(zip(found.after, before, strict=False))
        ),
    )
