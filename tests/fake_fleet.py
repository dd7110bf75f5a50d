# SPDX-License-Identifier: BSD-3-Clause
"""A fleet that makes records at once, without a coordinator and without booting anything."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from bench_lib import record
from bench_lib.errors import FleetUnreachable, UnknownHost
from bench_lib.fleet.client import FleetClient
from bench_lib.fleet.plan import Plan
from bench_lib.fleet.progress import Progress
from bench_lib.fleet.status import (
    CampaignState,
    CampaignStatus,
    FleetStatus,
    HostState,
    HostStatus,
)
from bench_lib.fleet.work import Kind
from bench_lib.record import Host, Kernel, Outcome, Record, Slot
from bench_lib.settings import Settings
from tests import fleets
from tests.make import record as make


def host(
    name: str,
    state: HostState = HostState.READY,
    reason: str | None = None,
    kinds: tuple[Kind, ...] = (Kind.LAB,),
) -> HostStatus:
    """A host of the fleet."""
    facts = fleets.facts(name, Kernel("6.1", "#1"), kinds=kinds, accelerator="kvm")
    return fleets.host(facts, state=state, reason=reason)


class FakeFleet(FleetClient):
    """Makes all boots of a plan when it is submitted.

    :ivar submitted: the plans so far.
    :ivar cancelled: the ids of the campaigns that were cancelled.
    :ivar breaks: hosts that are set aside at the first boot that they are given, and why.
    :ivar hangs: the releases under which trials of stuck guests hang, by host.
    :ivar forgets: whether it was restarted in between, so that it passes on no records.
    :ivar ends: whether campaigns ever end.
    :ivar unreachable: how many of the next questions get no answer.
    """

    def __init__(self, *hosts: HostStatus) -> None:
        super().__init__(None, "tls://nowhere:1")
        self.hosts = {each.facts.name: each for each in hosts}
        self.kept: list[Record] = []
        self.submitted: list[Plan] = []
        self.cancelled: list[str] = []
        self.breaks: dict[str, str] = {}
        self.hangs: dict[str, str] = {}
        self.forgets = False
        self.ends = True
        self.unreachable = 0
        self._boots = 0

    async def status(self) -> FleetStatus:
        return FleetStatus("", "0", "", "", None, tuple(self.hosts.values()), (), ())

    async def submit(self, plan: Plan) -> CampaignStatus:
        for name in plan.hosts:
            if name not in self.hosts:
                raise UnknownHost(f"The fleet has no host {name}.")
        before = self._status(plan)
        self.submitted.append(plan)
        if self.ends:
            for boot in plan.missing(self.kept):
                self._make(plan, boot.host or next(iter(self.hosts)), boot.number, boot.kernel)
        return before

    async def follow(self, id: str, seen: int) -> Progress:  # noqa: A002
        if self.unreachable:
            self.unreachable -= 1
            raise FleetUnreachable("The coordinator cannot be reached.")
        await asyncio.sleep(0)
        plan = next(each for each in self.submitted if each.id == id)
        lines = tuple(map(record.to_line, plan.made(self.kept)[seen:]))
        status = self._status(plan)
        return Progress(status.trials, status, () if self.forgets else lines)

    async def cancel(self, id: str) -> None:  # noqa: A002
        self.cancelled.append(id)

    async def records(self, kernels: Sequence[Kernel]) -> list[Record]:
        return [each for each in self.kept if each.kernel in kernels]

    def _make(self, plan: Plan, name: str, number: int, kernel: Kernel) -> None:
        if name in self.breaks:
            self.hosts[name] = host(name, HostState.SET_ASIDE, self.breaks[name])
            return
        self._boots += 1
        for case in plan.cases:
            hangs = self.hangs.get(name) == kernel.release and case.scenario != "idle"
            outcome = Outcome.ASLEEP if hangs else Outcome.RETURNED
            self.kept.append(
                dataclasses.replace(
                    make(outcome, scenario=case.scenario, kernel=kernel),
                    request=case.request,
                    boot_id=f"boot {self._boots}",
                    host=Host("lab" if plan.kind is Kind.LAB else "native", "kvm", name),
                    slot=Slot(plan.id, number),
                )
            )

    def _status(self, plan: Plan) -> CampaignStatus:
        made = plan.made(self.kept)
        left = {boot.host for boot in plan.missing(made)}
        state = CampaignState.INCOMPLETE if left else CampaignState.COMPLETE
        return CampaignStatus(
            id=plan.id,
            what="",
            state=state if self.ends else CampaignState.RUNNING,
            boots=0,
            done=0,
            trials=len(made),
            lost=0,
            running=0,
            left_s=None,
            missing=tuple(
                f"{name} is set aside: {self.breaks[name]}." for name in left if name in self.breaks
            ),
        )


def connecting(fleet: FakeFleet) -> object:
    """A function that takes the place of `campaigns.connected`."""

    @asynccontextmanager
    async def connected(settings: Settings) -> AsyncIterator[FakeFleet]:
        yield fleet

    return connected
