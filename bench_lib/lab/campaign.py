# SPDX-License-Identifier: BSD-3-Clause
"""Campaigns: trials in several boots of several kernels, interleaved and resumable."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from bench_lib import interrupt, ownership, record
from bench_lib.kernel.store import Bootable
from bench_lib.lab import parallel, qemu, trials
from bench_lib.lab.parallel import Job
from bench_lib.lab.vm import Facts
from bench_lib.record import Record, Slot
from bench_lib.settings import Settings
from bench_lib.trial.case import Case
from bench_lib.trial.history import History

T = TypeVar("T")


def schedule(kernels: Sequence[T], boots: int) -> list[T]:
    """The order of boots: A B, B A, then B A, A B, and so on.

    With two kernels and an even number of boots, each kernel is booted first equally often, so a
    host that drifts slowly affects both alike. Of three or more kernels, only the first and the
    last of `kernels` are ever booted first.
    """
    order: list[T] = []
    for number in range(boots):
        order.extend(kernels if number % 4 in {0, 3} else reversed(kernels))
    return order


@dataclass(frozen=True)
class Campaign:
    """What is to be measured.

    :ivar boots: the number of boots of each kernel.
    :ivar cases: the trials of one boot.
    :ivar name: keeps apart campaigns that are otherwise the same.
    """

    kernels: Sequence[Bootable]
    boots: int
    cases: Sequence[Case]
    name: str = ""

    @property
    def id(self) -> str:
        """A digest of the campaign, by which a campaign that is started again finds its records."""
        parts = [
            self.name,
            [kernel.build.id for kernel in self.kernels],
            self.boots,
            [case.name for case in self.cases],
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    def made(self, records: Sequence[Record]) -> list[Record]:
        """The records of this campaign that this host's labs have made.

        Several hosts may share a history, and each host makes all boots of a campaign.
        """
        here = qemu.host()
        return [
            each
            for each in records
            if each.slot and each.slot.campaign == self.id and each.host == here
        ]

    def missing(self, records: Sequence[Record]) -> list[tuple[int, Bootable]]:
        """The number and the kernel of each boot that is still to be made, in order.

        The records of a boot are kept together or not at all, so one record shows that the boot is
        complete.
        """
        done = {each.slot.number for each in self.made(records) if each.slot}
        order = schedule(self.kernels, self.boots)
        return [(number, kernel) for number, kernel in enumerate(order) if number not in done]


def run(
    campaign: Campaign,
    settings: Settings,
    on_record: Callable[[Record], None],
    on_boot: Callable[[Facts], None],
) -> None:
    """Make the boots that are missing. The records of each complete boot are kept in any case.

    :raise LabError: a lab did not come up.
    :raise Interrupted: a signal ended the run; the next run makes the unfinished boot again.
    """
    with ownership.measuring(settings.runtime) as owner:
        interrupt.run(_run(owner, campaign, settings, on_record, on_boot))


async def _run(
    owner: ownership.Run,
    campaign: Campaign,
    settings: Settings,
    on_record: Callable[[Record], None],
    on_boot: Callable[[Facts], None],
) -> None:
    history = History(settings)
    missing = campaign.missing(record.read(settings.records)[0])
    made: list[Record] = []

    def boot(kernel: Bootable) -> Job:
        return partial(trials.make, owner, kernel, campaign.cases, settings)

    def collect(index: int, one: Record) -> None:
        number, _ = missing[index]
        made.append(dataclasses.replace(one, slot=Slot(campaign.id, number)))
        on_record(one)

    def keep(_: int) -> None:
        history.keep(*made)
        made.clear()

    queue = [boot(kernel) for _, kernel in missing]
    await parallel.run(queue, parallel.jobs(settings), collect, on_boot, keep)
