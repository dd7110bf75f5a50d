# SPDX-License-Identifier: BSD-3-Clause
"""Recovers the migration of a guest, and has the guest check its own memory."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from bench_lib.deadline import Deadline, together
from bench_lib.errors import (
    DeadlinePassed,
    MigrationFailed,
    MonitorRefused,
    RecoveryFailed,
    TrialLost,
)
from bench_lib.record import Recovery
from bench_lib.trial.requests.request import Request
from bench_lib.trial.scene import MigrationScene

ATTEMPTS = 2

LOOK_S = 0.01
"""For an answer that arrived after the deadline and before the stall was ended."""


async def recover(
    scene: MigrationScene,
    request: Request,
    limit_s: float,
    release: Callable[[], Awaitable[None]],
    *,
    answered: bool,
    breaks: bool,
) -> Recovery:
    """Recover the guest after the request.

    :param limit_s: seconds until each part has to be done.
    :param release: ends the stall.
    :param answered: whether the request was; if not, its answer is waited for.
    :param breaks: whether the migration has to be recovered, and does not go on by itself.
    :raise RecoveryFailed: the migration did not go on, in two attempts.
    :raise TrialLost: it did, but did not complete, or the guest does not run.
    """
    await scene.watch.resume()
    completed_ns = next_pass_ns = answered_ns = None
    if not answered and await request.answer(Deadline.after(LOOK_S)):
        answered, answered_ns = True, 0
    # First, because QEMU does nothing while a debugger has stopped it, or tries to.
    if answered:
        await request.undo(Deadline.after(limit_s))
    awaited = not answered and not request.withdraw()
    if breaks:
        # While nothing passes: QEMU 7.2 hangs if it is told to pause just as it completes.
        await scene.migration.pause(Deadline.after(limit_s))
    await release()
    released_ns = time.monotonic_ns()

    async def next_pass(limit: Deadline) -> int:
        await scene.watch.continues(limit)
        return time.monotonic_ns()

    try:
        await scene.migration.unthrottle(Deadline.after(limit_s))
        if breaks:
            await _go_on(scene, limit_s)
        if awaited:
            late = await request.answer(Deadline.after(limit_s))
            if late is None:
                raise RecoveryFailed(
                    "The migration goes on, but the request has still not returned."
                )
            answered_ns = late.answered_ns - released_ns
            await request.undo(Deadline.after(limit_s))
        limit = Deadline.after(limit_s)
        moments = await together(scene.migration.completes(limit), next_pass(limit))
        # A migration that was never broken may have completed by itself before.
        completed_ns, next_pass_ns = (max(0, each - released_ns) for each in moments)
        await scene.watch.verified(Deadline.after(limit_s))
    except TrialLost:
        if scene.watch.damage is None:
            raise
        return Recovery(
            completed_ns, next_pass_ns, "damaged", answered_ns, damage=scene.watch.damage
        )
    return Recovery(completed_ns, next_pass_ns, "whole", answered_ns)


async def _go_on(scene: MigrationScene, limit_s: float) -> None:
    """Have the migration go on over the link that is whole again."""
    migration = scene.migration
    reasons = []
    for attempt in range(1, ATTEMPTS + 1):
        deadline = Deadline.after(limit_s / ATTEMPTS)
        try:
            await migration.pause(deadline)
            await migration.resume(scene.link.destination.address, attempt, deadline)
            await migration.continues(deadline)
        except (MonitorRefused, MigrationFailed, DeadlinePassed) as error:
            reasons.append(str(error))
        else:
            return
    raise RecoveryFailed(
        f"The migration was not recovered in {ATTEMPTS} tries: {' '.join(reasons)}"
    )
