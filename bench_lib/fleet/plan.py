# SPDX-License-Identifier: BSD-3-Clause
"""What a campaign over the fleet consists of, and which of its boots are still to be made."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from bench_lib.fleet.work import Kind
from bench_lib.lab.campaign import schedule
from bench_lib.record import Kernel, Record
from bench_lib.trial.case import Case


@dataclass(frozen=True)
class Boot:
    """One boot of a campaign.

    :ivar host: the name of the host that has to make it; None if any host may.
    :ivar number: its number among the boots of its host, or of the campaign if any host may make
        them, from 0. Boots with low numbers are made first, so that kernels are interleaved.
    """

    host: str | None
    number: int
    kernel: Kernel


@dataclass(frozen=True)
class Plan:
    """A campaign over the fleet.

    :ivar cases: the trials of one boot, in order.
    :ivar boots: how often each kernel is booted: on each of `hosts`, or in all if there are none.
    :ivar hosts: the hosts that make all boots; empty if any host may make any of them, which only
        labs allow.
    :ivar reboot: whether hosts are booted into the kernels that are installed on them.
    :ivar patience_s: how long the campaign waits for a host that is away, or has to be booted into
        another kernel by someone else, while it has nothing else to do.
    :ivar settings: environment variables for the processes that make the trials.
    :ivar name: keeps apart campaigns that are otherwise the same.
    """

    kind: Kind
    kernels: tuple[Kernel, ...]
    cases: tuple[Case, ...]
    boots: int
    hosts: tuple[str, ...] = ()
    reboot: bool = False
    patience_s: float = 600.0
    settings: dict[str, str] = field(default_factory=dict)
    name: str = ""

    @cached_property
    def id(self) -> str:
        """A digest of what is measured. A campaign that is started again finds its records by it.

        It does not depend on `reboot` and `patience_s`, which decide only how boots come about.
        """
        parts = [
            self.name,
            self.kind,
            [[kernel.release, kernel.version] for kernel in self.kernels],
            self.boots,
            [case.name for case in self.cases],
            sorted(self.hosts),
            self.settings,
        ]
        return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:12]

    def all_boots(self) -> Iterator[Boot]:
        """Yield all boots: those of low numbers first, and of the hosts in turns."""
        for number, kernel in enumerate(schedule(self.kernels, self.boots)):
            for host in self.hosts or (None,):
                yield Boot(host, number, kernel)

    def place(self, record: Record) -> tuple[str | None, int] | None:
        """Return the host and the number of the boot that a record is of, or None if of none."""
        slot = record.slot
        if slot is None or slot.campaign != self.id:
            return None
        return (record.host.machine if self.hosts else None), slot.number

    def made(self, records: Iterable[Record]) -> list[Record]:
        """Return the records of this campaign."""
        return [each for each in records if self.place(each) is not None]

    def missing(self, records: Sequence[Record]) -> list[Boot]:
        """Return the boots that have no records, in order.

        A boot is made if it has a record of each trial. They are appended together or not at all.
        """
        made = Counter(self.place(each) for each in records)
        return [each for each in self.all_boots() if made[each.host, each.number] < len(self.cases)]
