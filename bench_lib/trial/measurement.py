# SPDX-License-Identifier: BSD-3-Clause
"""The clock around a request, and what the kernel showed of QEMU before and after it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from bench_lib import process, threads
from bench_lib.deadline import Deadline
from bench_lib.errors import DebuggerFailed, GuestDied, MonitorFailed, TrialLost
from bench_lib.record import HUNG, Evidence, Outcome
from bench_lib.threads import Part, ThreadState
from bench_lib.trial import proof
from bench_lib.trial.requests.description import REQUESTS
from bench_lib.trial.requests.request import Reply, Request
from bench_lib.trial.scenarios.description import SCENARIOS, Stuck
from bench_lib.trial.scene import Scene, Staging
from bench_lib.units import NS_PER_S

CATCH_S = 0.5
"""How long threads that were called are looked at until they show where they spin."""

LATE_S = 1.0
"""How long after its deadline an answer is still waited for."""


@dataclass
class Measurement:
    """What became of a request, as far as that is known.

    :ivar vcpus: numbers of vCPUs by the ids of their threads.
    :ivar before: every thread of QEMU just before the request; `after` at its end.
    :ivar blocker: the thread that explains a hang.
    :ivar reason: why, for `refused`, `died` and `lost`.
    :ivar late_ns: from the request to an answer that arrived after the deadline.
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
        """From the request to its answer, if there was one in time."""
        return self.reply.latency_ns if self.reply else None

    def lose(self, reason: str) -> None:
        """Count the trial as lost. What was seen until then stays."""
        self.outcome, self.reply, self.reason = Outcome.LOST, None, reason

    def take(self, reply: Reply | None, deadline_s: float) -> None:
        """Keep what was waited for; one that was seen only after the deadline is no answer."""
        if reply is not None and reply.latency_ns > deadline_s * NS_PER_S:
            self.late_ns, reply = reply.latency_ns, None
        self.reply = reply

    def evidence(self) -> Evidence:
        """The record's form of what was seen."""
        earlier = {each.tid: each for each in self.before}
        return Evidence(
            before=tuple(threads.evidence(each, self._part(each)) for each in self.before),
            after=tuple(
                # A thread that is new has burnt all of its CPU time since.
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
        """Keep the time of an answer that arrives after the deadline, if one does.

        :param limit_s: seconds that it is waited for.
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
    """Prove the scenario, make the request, look again.

    :param deadline_s: seconds until the answer; then the request has hung.
    :param into: is filled in as far as this gets.
    :raise TrialLost: no request was made, or the request's own tool failed.
    """
    into.vcpus = {tid: number for number, tid in enumerate(scene.tids)}
    with staging.timeline.stage("proof"):
        into.before = await scene.during(_proved(staging, scene))
    seen_ns = time.monotonic_ns()
    scene.watch.pause()
    sent = False

    async def ask() -> Reply | None:
        nonlocal sent
        await request.send()
        sent = True
        return await request.answer(Deadline.after(deadline_s))

    ends_guest = REQUESTS[staging.case.request].ends_guest
    try:
        with staging.timeline.stage("request"):
            into.take(await scene.during(ask(), guest_may_end=ends_guest), deadline_s)
    except (GuestDied, MonitorFailed, DebuggerFailed) as error:
        # A debugger keeps a dead QEMU from being reaped, and so from being seen to have ended.
        held = isinstance(error, DebuggerFailed) and not process.lives(scene.guest.child.pid)
        if not sent or (isinstance(error, DebuggerFailed) and not held):
            raise
        died = held or isinstance(error, GuestDied)
        into.outcome = Outcome.DIED if died else Outcome.UNANSWERED
        into.reason = f"QEMU ended while a debugger held it. {error}" if held else str(error)
        return
    with staging.timeline.stage("evidence"):
        if into.reply is None:
            elapsed_ns = time.monotonic_ns() - seen_ns
            into.after = _caught(_at_the_end(scene))
            into.outcome, into.blocker = threads.blame(into.before, into.after, elapsed_ns)
            await into.look_for_late_answer(request, LATE_S)
            return
        if not ends_guest:
            into.after = _at_the_end(scene)
    into.outcome = Outcome.RETURNED if into.reply.refusal is None else Outcome.REFUSED
    into.reason = into.reply.refusal


async def _proved(staging: Staging, scene: Scene) -> list[ThreadState]:
    """Every thread of QEMU, once each vCPU was seen to do what the scenario is about."""
    pid, description = scene.guest.child.pid, SCENARIOS[staging.case.scenario]
    if description.proves is Stuck.RUNS:
        vcpus = await proof.alive(pid, scene.tids, staging.deadline)
    else:
        prescribed = staging.workload.prescribes
        path = prescribed if description.proves is Stuck.ON_PATH else None
        vcpus = await proof.stuck(pid, scene.tids, path, staging.deadline, description.apart_s)
    return proof.look_at_all(pid, vcpus)


def _at_the_end(scene: Scene) -> list[ThreadState]:
    """Every thread of QEMU; none, if it has ended by now."""
    try:
        return proof.look_at_all(scene.guest.child.pid, ())
    except GuestDied:
        return []


def _caught(after: list[ThreadState]) -> list[ThreadState]:
    """The threads, and of those that spin where they do it."""
    caught = threads.catch(after, Deadline.after(CATCH_S))
    return [threads.where_caught(each, caught) for each in after]
