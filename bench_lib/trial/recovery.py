# SPDX-License-Identifier: BSD-3-Clause
"""Recovering the migration of a guest, and letting the guest check its memory."""

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
"""How often a recovery of the migration is tried."""

ARRIVED_S = 0.01
"""Seconds to wait for an answer that arrived after the deadline, but before the stall ended."""


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

    :param limit_s: how many seconds each step may take.
    :param release: ends the stall.
    :param answered: whether the request has been answered. If not, the answer is waited for.
    :param breaks: whether the migration has to be recovered. If not, it continues by itself.
    :raise RecoveryFailed: the migration did not continue, or the request was not answered.
    :raise TrialLost: the migration did not complete, or the guest does not run.
    """
    await scene.watch.resume()
    completed_ns = next_pass_ns = answered_ns = None
    if not answered and await request.answer(Deadline.after(ARRIVED_S)):
        answered, answered_ns = True, 0
    # Do this first, because QEMU cannot act while a debugger has stopped it or tries to.
    if answered:
        await request.undo(Deadline.after(limit_s))
    awaited = not answered and not request.withdraw()
    if breaks:
        # Do this while no traffic passes: QEMU 7.2 hangs if it gets the command when it completes.
        await scene.migration.pause(Deadline.after(limit_s))
    await release()
    released_ns = time.monotonic_ns()

    async def next_pass(limit: Deadline) -> int:
        await scene.watch.continues(limit)
        return time.monotonic_ns()

    try:
        await scene.migration.unthrottle(Deadline.after(limit_s))
        if breaks:
            await _continue(scene, limit_s)
        if awaited:
            late = await request.answer(Deadline.after(limit_s))
            if late is None:
                raise RecoveryFailed("The migration continues, but the request is unanswered.")
            answered_ns = late.answered_ns - released_ns
            await request.undo(Deadline.after(limit_s))
        limit = Deadline.after(limit_s)
        moments = await together(scene.migration.completes(limit), next_pass(limit))
        # If the migration was not broken, it may have completed before the stall ended.
        completed_ns, next_pass_ns = (max(0, each - released_ns) for each in moments)
        await scene.watch.verified(Deadline.after(limit_s))
    except TrialLost:
        if scene.watch.damage is None:
            raise
        return Recovery(
            completed_ns, next_pass_ns, "damaged", answered_ns, damage=scene.watch.damage
        )
    return Recovery(completed_ns, next_pass_ns, "whole", answered_ns)


async def _continue(scene: MigrationScene, limit_s: float) -> None:
    """Recover the migration over the restored link.

    :raise RecoveryFailed: every attempt failed.
    """
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
        f"The migration was not recovered in {ATTEMPTS} attempts: {' '.join(reasons)}"
    )
