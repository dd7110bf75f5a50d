"""Runs a number of trials, one after the other, and keeps their records."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bench_lib import ownership, record
from bench_lib.deadline import Deadline
from bench_lib.errors import Interrupted
from bench_lib.guest import features, image
from bench_lib.kernel import identity
from bench_lib.kernel.ledger import Ledger, describe
from bench_lib.network import link, outage
from bench_lib.network.outage import Mechanism
from bench_lib.ownership import Run
from bench_lib.record import Record, Request, Scenario, Shape
from bench_lib.settings import Settings
from bench_lib.trial import preflight
from bench_lib.trial.one import Limits, trial
from bench_lib.trial.staging import Plan

T = TypeVar("T")

DEFAULT_SHAPE = Shape()


@dataclass(frozen=True)
class Case:
    """What one trial is of."""

    scenario: Scenario
    request: Request


def interleaved(cases: Sequence[Case], count: int) -> list[Case]:
    """`count` trials of each case, in turns, so that a host that drifts drifts in all of them."""
    return [case for _ in range(count) for case in cases]


def run(
    cases: Sequence[Case],
    settings: Settings,
    on_record: Callable[[Record], None],
    shape: Shape = DEFAULT_SHAPE,
) -> list[Record]:
    """Run a trial of each of `cases`, in this order.

    Each record is appended to the record file before the next trial begins. SIGINT and SIGTERM
    end the trial that runs, with all that it has started, and those before it stay.

    :param on_record: called with each record once it is kept.
    :raise HostError: this host cannot run trials; nothing was.
    :raise RecordNotWritten: a record could not be kept; the trials before it are.
    :raise Interrupted: by one of those signals.
    """
    preflight.check(settings)
    with ownership.measuring(settings.runtime) as owner:
        return asyncio.run(_interruptible(_run(cases, settings, shape, owner, on_record)))


async def _interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Do `work`; the first SIGINT or SIGTERM cancels it, and more of them change nothing.

    Left to itself a second Ctrl-C would break off the release of the trial.
    """
    received: list[signal.Signals] = []
    working = asyncio.ensure_future(work)

    def on_signal(number: signal.Signals) -> None:
        if not received:
            working.cancel()
        received.append(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    try:
        return await working
    except asyncio.CancelledError:
        raise Interrupted(received[0]) from None


async def _run(
    cases: Sequence[Case],
    settings: Settings,
    shape: Shape,
    owner: Run,
    on_record: Callable[[Record], None],
) -> list[Record]:
    limits = Limits(settings.staging_s, settings.deadline_s)
    await features.check(owner, settings.qemu, Deadline.after(settings.staging_s))
    plan = Plan(
        run=owner,
        qemu=settings.qemu,
        image=image.load(settings.images, shape.image),
        shape=shape,
        mechanism=await _mechanism(owner),
    )
    Ledger(settings.ledger).add(describe(identity.booted()))
    records = []
    for seq, case in enumerate(cases, start=1):
        made = await trial(plan, seq, case.scenario, case.request, limits)
        record.append(settings.records, made)
        records.append(made)
        on_record(made)
    return records


async def _mechanism(owner: Run) -> Mechanism:
    """How links are cut here; found out once a run, with a link of its own."""
    with link.joined(owner, 0) as probe:
        return await outage.choose(probe)
