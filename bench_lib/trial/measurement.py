# SPDX-License-Identifier: BSD-3-Clause
"""Measuring a request, and looking at QEMU's threads before and after it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from bench_lib import process, threads
from bench_lib.deadline import Deadline
from bench_lib.errors import DebuggerFailed, GuestDied, MonitorFailed, TrialLost
from bench_lib.record import HUNG, Evidence, FollowUp, Outcome, RequestName
from bench_lib.threads import Part, ThreadState
from bench_lib.trial import proof
from bench_lib.trial.requests.description import REQUESTS, RequestDescription
from bench_lib.trial.requests.request import Reply, Request
from bench_lib.trial.scenarios.description import SCENARIOS, Stuck
from bench_lib.trial.scene import Scene, Staging
from bench_lib.trial.timeline import Timeline
from bench_lib.units import NS_PER_S

CATCH_S = 0.5
"""Seconds to look at called threads until they show where they spin."""

LATE_S = 0.5
"""Seconds after the deadline in which an answer is still waited for."""


@dataclass
class Measurement:
    """What is known so far about a request.

    :ivar before: every thread of QEMU just before the request.
    :ivar after: every thread of QEMU at the answer or the deadline.
    :ivar vcpus: the number of each vCPU, by the id of its thread.
    :ivar blocker: the thread that explains a hang.
    :ivar reply: the answer, if it arrived before the deadline.
    :ivar outcome: None until it is known.
    :ivar reason: why the outcome is `refused`, `died` or `lost`; of a hang, what QEMU's threads do
        not show.
    :ivar late_ns: nanoseconds from the request to an answer that arrived after the deadline.
    """

    before: list[ThreadState] = field(default_factory=list)
    after: list[ThreadState] = field(default_factory=list)
    vcpus: dict[int, int] = field(default_factory=dict)
    blocker: ThreadState | None = None
    reply: Reply | None = None
    outcome: Outcome | None = None
    reason: str | None = None
    late_ns: int | None = None

    @property
    def hung(self) -> bool:
        """Whether the deadline passed without an answer."""
        return self.outcome in HUNG

    @property
    def latency_ns(self) -> int | None:
        """Nanoseconds from the request to its answer, if it arrived before the deadline."""
        return self.reply.latency_ns if self.reply else None

    @property
    def ended_ns(self) -> int | None:
        """From the request to QEMU's death, where that was seen apart from the answer."""
        if self.reply is None or self.reply.ended_ns is None:
            return None
        return self.reply.ended_ns - self.reply.sent_ns

    def lose(self, reason: str) -> None:
        """Make the outcome `lost`. What was seen until now is kept."""
        self.outcome, self.reply, self.reason = Outcome.LOST, None, reason

    def take(self, reply: Reply | None, deadline_s: float) -> None:
        """Keep the answer. If it was seen only after the deadline, keep it as a late one."""
        if reply is not None and reply.latency_ns > deadline_s * NS_PER_S:
            self.late_ns, reply = reply.latency_ns, None
        self.reply = reply

    def evidence(self) -> Evidence:
        """Convert what was seen to its form in a record."""
        earlier = {each.tid: each for each in self.before}
        return Evidence(
            before=tuple(threads.evidence(each, self._part(each)) for each in self.before),
            after=tuple(
                # A new thread has used all of its CPU time since the request.
                threads.evidence(
                    each, self._part(each), earlier.get(each.tid, replace(each, cpu_ns=0))
                )
                for each in self.after
            ),
            pending=self.after[0].pending if self.after else (),
            blocker=self.blocker.tid if self.blocker else None,
        )

    def _part(self, seen: ThreadState) -> Part:
        return threads.roles(seen.pid, [seen], self.vcpus)[seen.tid]

    async def look_for_late_answer(self, request: Request, limit_s: float) -> None:
        """Wait for a late answer, and keep its time if it arrives.

        :param limit_s: seconds to wait.
        """
        if not self.hung or self.late_ns is not None:
            return
        try:
            late = await request.answer(Deadline.after(limit_s))
        except TrialLost:
            return
        if late is not None:
            self.late_ns = late.latency_ns


async def measure(
    staging: Staging, scene: Scene, request: Request, deadline_s: float, into: Measurement
) -> None:
    """Prove the scenario, make the request, and look at QEMU's threads again.

    :param deadline_s: how many seconds the answer may take before the request counts as hung.
    :param into: receives the results, even if this raises an error half-way.
    :raise TrialLost: no request was made, or the request's own tool failed.
    """
    into.vcpus = scene.vcpus
    with staging.timeline.stage("proof"):
        into.before = await scene.during(_proved(staging, scene))
    await _make(scene, request, REQUESTS[staging.case.request], deadline_s, into, staging.timeline)


async def follow_up(
    staging: Staging, scene: Scene, name: RequestName, request: Request, deadline_s: float
) -> FollowUp:
    """Make a second request, after the first one was answered or had hung.

    :param name: the name of the second request.
    :param request: the second request, which is prepared.
    :param deadline_s: how many seconds the answer may take before the request counts as hung.
    """
    into = Measurement(vcpus=scene.vcpus)
    try:
        into.before = proof.look_at_all(scene.guest.child.pid, ())
        await _make(scene, request, REQUESTS[name], deadline_s, into, staging.timeline)
    except TrialLost as error:
        into.lose(str(error))
    assert into.outcome is not None
    return FollowUp(
        name,
        into.outcome,
        round(deadline_s * NS_PER_S),
        into.latency_ns,
        into.ended_ns,
        into.reason,
    )


async def _make(
    scene: Scene,
    request: Request,
    description: RequestDescription,
    deadline_s: float,
    into: Measurement,
    timeline: Timeline,
) -> None:
    """Make a request, and look at the threads of QEMU at its answer or its deadline.

    :param into: receives the results; it already has the threads just before the request.
    """
    seen_ns = time.monotonic_ns()
    scene.watch.pause()
    sent = False

    async def make_request() -> Reply | None:
        nonlocal sent
        await request.send()
        sent = True
        return await request.answer(Deadline.after(deadline_s))

    ends_guest = description.ends_guest
    try:
        with timeline.stage("request"):
            into.take(await scene.during(make_request(), guest_may_end=ends_guest), deadline_s)
    except (GuestDied, MonitorFailed, DebuggerFailed) as error:
        # A dead QEMU that a debugger traces cannot be reaped, so its end is not seen otherwise.
        held = isinstance(error, DebuggerFailed) and not process.lives(scene.guest.child.pid)
        if not sent or (isinstance(error, DebuggerFailed) and not held):
            raise
        died = held or isinstance(error, GuestDied)
        into.outcome = Outcome.DIED if died else Outcome.UNANSWERED
        into.reason = f"QEMU ended while a debugger traced it. {error}" if held else str(error)
        return
    with timeline.stage("evidence"):
        if into.reply is None:
            elapsed_ns = time.monotonic_ns() - seen_ns
            into.reason = request.hang()
            into.after = _caught(
                [replace(each, called=request.called(each)) for each in _at_the_end(scene)]
            )
            into.outcome = Outcome.UNANSWERED
            if not description.to_source:
                into.outcome, into.blocker = threads.blame(
                    into.before, into.after, elapsed_ns, acts=not description.without_qemu
                )
            await into.look_for_late_answer(request, LATE_S)
            return
        if not ends_guest:
            into.after = _at_the_end(scene)
    into.outcome = Outcome.RETURNED if into.reply.refusal is None else Outcome.REFUSED
    into.reason = into.reply.refusal


async def _proved(staging: Staging, scene: Scene) -> list[ThreadState]:
    """Wait until the scenario is proved for each vCPU, and look at every thread of QEMU."""
    pid, description = scene.guest.child.pid, SCENARIOS[staging.case.scenario]
    workload, deadline = staging.workload, staging.deadline
    if description.proves is Stuck.RUNS:
        vcpus = await proof.alive(pid, scene.tids, deadline, halts=workload.halts)
    else:
        path = workload.prescribes if description.proves is Stuck.ON_PATH else None
        vcpus = await proof.stuck(
            pid, scene.tids, path, deadline, description.apart_s, halts=workload.halts
        )
    return proof.look_at_all(pid, vcpus)


def _at_the_end(scene: Scene) -> list[ThreadState]:
    """Look at every thread of QEMU; return nothing if it has ended."""
    try:
        return proof.look_at_all(scene.guest.child.pid, ())
    except GuestDied:
        return []


def _caught(after: list[ThreadState]) -> list[ThreadState]:
    """Replace the stacks of threads that spin by stacks that show where they spin."""
    caught = threads.catch(after, Deadline.after(CATCH_S))
    return [threads.where_caught(each, caught) for each in after]
