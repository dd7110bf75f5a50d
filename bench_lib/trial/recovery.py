"""Makes the network whole, recovers the migration, and has the guest check its own memory."""

from __future__ import annotations

import time

from bench_lib.deadline import Deadline, together
from bench_lib.errors import (
    DeadlinePassed,
    MigrationFailed,
    MonitorRefused,
    RecoveryFailed,
    TrialLost,
)
from bench_lib.record import Recovery
from bench_lib.trial.failures import Failure
from bench_lib.trial.requests import Asking
from bench_lib.trial.staging import Scene

ATTEMPTS = 2

LOOK_S = 0.01
"""For an answer that came after the deadline and before the link."""

PASSES = 3
"""Marks of each vCPU until its memory counts as checked, once all of it has arrived: the first ends
a pass that was begun before, two more are whole."""


async def recover(
    scene: Scene, failure: Failure, asking: Asking, answered: bool, limit_s: float
) -> Recovery:
    """Recover the guest after the request.

    :param answered: whether the request was; if not, its answer is waited for.
    :param limit_s: seconds until each part has to be done.
    :raise RecoveryFailed: the migration did not go on, in two attempts.
    :raise TrialLost: it did, but did not complete, or the guest does not run.
    """
    assert scene.pair is not None
    serial = scene.guest.serial
    vcpus = scene.case.shape.vcpus
    await serial.resume()
    before = dict(serial.marks.passes)
    completed_ns = next_pass_ns = answered_ns = None
    if not answered and await asking.answer(Deadline.after(LOOK_S)):
        answered, answered_ns = True, 0
    # First, for QEMU does nothing while a debugger has stopped it, or tries to.
    if answered:
        await asking.undo(Deadline.after(limit_s))
    awaited = not answered and not asking.withdraw()
    if failure.breaks:
        # While nothing passes: QEMU 7.2 hangs if it is told to pause just as it completes.
        await scene.pair.migration.pause(Deadline.after(limit_s))
    failure.restore()
    restored_ns = time.monotonic_ns()

    async def next_pass(limit: Deadline) -> int:
        await serial.passes(vcpus, 1, limit, before)
        return time.monotonic_ns()

    try:
        await scene.pair.migration.unthrottle(Deadline.after(limit_s))
        if failure.breaks:
            await _go_on(scene, limit_s)
        if awaited:
            late = await asking.answer(Deadline.after(limit_s))
            if late is None:
                raise RecoveryFailed(
                    f"The migration goes on, but {scene.case.request} has still not returned."
                )
            answered_ns = late.answered_ns - restored_ns
            await asking.undo(Deadline.after(limit_s))
        limit = Deadline.after(limit_s)
        moments = await together(scene.pair.migration.completes(limit), next_pass(limit))
        # A migration that was never broken may have completed by itself before.
        completed_ns, next_pass_ns = (max(0, each - restored_ns) for each in moments)
        arrived = dict(serial.marks.passes)
        await serial.passes(vcpus, PASSES, Deadline.after(limit_s), arrived)
        serial.check_memory()
    except TrialLost:
        if serial.damage is None:
            raise
        return Recovery(completed_ns, next_pass_ns, "damaged", answered_ns, damage=serial.damage)
    return Recovery(completed_ns, next_pass_ns, "whole", answered_ns)


async def _go_on(scene: Scene, limit_s: float) -> None:
    """Have the migration go on over the link that is whole again."""
    assert scene.pair is not None
    migration = scene.pair.migration
    reasons = []
    for attempt in range(1, ATTEMPTS + 1):
        deadline = Deadline.after(limit_s / ATTEMPTS)
        try:
            await migration.pause(deadline)
            await migration.resume(scene.pair.link.destination.address, attempt, deadline)
            await migration.goes_on(deadline)
        except (MonitorRefused, MigrationFailed, DeadlinePassed) as error:
            reasons.append(str(error))
        else:
            return
    raise RecoveryFailed(
        f"The migration was not recovered in {ATTEMPTS} tries: {' '.join(reasons)}"
    )
