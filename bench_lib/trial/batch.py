"""Runs a number of trials, one after the other, and keeps their records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench_lib import interrupt, ownership
from bench_lib.deadline import Deadline
from bench_lib.guest import features, image
from bench_lib.kernel import identity
from bench_lib.network import link, outage
from bench_lib.network.outage import Mechanism
from bench_lib.ownership import Run
from bench_lib.record import Record, Request, Scenario, Shape
from bench_lib.settings import Settings
from bench_lib.trial import preflight
from bench_lib.trial.history import History
from bench_lib.trial.one import Limits, trial
from bench_lib.trial.staging import Plan

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

    Each record is appended to the record file before the next trial begins. SIGINT, SIGTERM
    and SIGHUP end the trial that runs, with all that it has started, and those before it stay.

    :param on_record: called with each record once it is kept.
    :raise HostError: this host cannot run trials; nothing was.
    :raise RecordNotWritten: a record could not be kept; the trials before it are.
    :raise Interrupted: by one of those signals.
    """
    preflight.check(settings)
    with ownership.measuring(settings.runtime) as owner:
        return interrupt.run(_run(cases, settings, shape, owner, on_record))


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
        host=identity.this_host(settings.lab),
        qemu=settings.qemu,
        image=image.load(settings.images, shape.image),
        shape=shape,
        mechanism=await _mechanism(owner),
    )
    history = History(settings)
    records = []
    for seq, case in enumerate(cases, start=1):
        made = await trial(plan, seq, case.scenario, case.request, limits)
        history.keep(made)
        records.append(made)
        on_record(made)
    return records


async def _mechanism(owner: Run) -> Mechanism:
    """How links are cut here; found out once a run, with a link of its own."""
    with link.joined(owner, 0) as probe:
        return await outage.choose(probe)
