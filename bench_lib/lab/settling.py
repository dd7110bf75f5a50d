"""More boots of two kernels, in steps, for whoever looks after each step whether that is enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench_lib import record
from bench_lib.kernel.store import Bootable
from bench_lib.lab import campaign
from bench_lib.lab.campaign import Campaign
from bench_lib.lab.machine import Facts
from bench_lib.record import Record, Request
from bench_lib.settings import Settings
from bench_lib.trial.case import CORE_SCENARIOS, Case, interleaved

FIRST_LOOK = 6
"""Boots of each kernel before the first look; fewer could settle nothing, see `verdict`."""

TRIALS = 2
"""Of each case a boot."""


def looks(most: int) -> list[int]:
    """After how many boots to look: twice as many each time, and at last at the most.

    Few looks, for each takes its share of the error that is allowed.
    """
    found = []
    boots = FIRST_LOOK
    while boots < most:
        found.append(boots)
        boots *= 2
    return [*found, most]


def lab_records(settings: Settings, builds: Sequence[Bootable]) -> list[Record]:
    """What the lab has measured of these kernels."""
    kernels = {build.build.kernel for build in builds}
    records, _ = record.read(settings.records)
    return [each for each in records if each.kernel in kernels and each.host.kind == "lab"]


def boot(
    settings: Settings,
    builds: Sequence[Bootable],
    boots: int,
    on_record: Callable[[Record], None],
    on_boot: Callable[[Facts], None],
) -> None:
    """Boot the kernels, interleaved, until each has so many boots.

    What is measured is what was measured of them before, or else `stop` in the core scenarios.
    """
    records = lab_records(settings, builds)
    there = [_boots(records, build) for build in builds]
    cases = list(dict.fromkeys(Case(each.scenario, each.request, each.shape) for each in records))
    if not cases:
        cases = [Case(scenario, Request.STOP) for scenario in CORE_SCENARIOS]
    together = boots - max(there)
    plans = [(builds, together)] if together > 0 else []
    # First whoever has fewer, so that the rest can be interleaved.
    behind = [
        ([build], min(boots, max(there)) - count)
        for build, count in zip(builds, there, strict=True)
        if count < min(boots, max(there))
    ]
    for kernels, count in [*behind, *plans]:
        plan = Campaign(kernels, count, interleaved(cases, TRIALS), f"after {there}")
        campaign.run(plan, settings, on_record, on_boot)


def _boots(records: Sequence[Record], build: Bootable) -> int:
    return len({each.boot_id for each in records if each.kernel == build.build.kernel} - {""})
