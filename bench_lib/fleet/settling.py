# SPDX-License-Identifier: BSD-3-Clause
"""More boots of two kernels on the hosts of a fleet, until the gate can decide between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from bench_lib import interrupt
from bench_lib.errors import FleetError
from bench_lib.fleet import campaigns
from bench_lib.fleet.hosts import OUT_OF_USE
from bench_lib.fleet.plan import Plan
from bench_lib.fleet.status import CampaignState, HostState, HostStatus
from bench_lib.fleet.work import Kind
from bench_lib.lab import settling
from bench_lib.lab.settling import Step
from bench_lib.record import SCHEMA, Host, Kernel, Record
from bench_lib.settings import Settings
from bench_lib.trial.case import Case, interleaved
from bench_lib.verdict.comparison import Verdict
from bench_lib.verdict.gate import Gate
from bench_lib.verdict.matching import check_schemas

if TYPE_CHECKING:
    from bench_lib.fleet.client import FleetClient

T = TypeVar("T")

READY = {HostState.EXAMINED, HostState.READY, HostState.WORKING}
"""The states of hosts that take part. Those that are being examined begin when that is done."""


@dataclass(frozen=True)
class Member:
    """A host that takes part in the comparison.

    :ivar qemu: the version of its QEMU.
    :ivar lab: its labs, as records name them.
    """

    name: str
    qemu: str | None
    lab: Host


class FleetBoots:
    """Boots in labs on the hosts of a fleet that are ready at the beginning.

    :ivar members: these hosts.
    :ivar others: the hosts that do not take part, and why, in words.
    :ivar missing: why boots were not made at the last look, as sentences.
    """

    def __init__(
        self, settings: Settings, kernels: Sequence[Kernel], on_record: Callable[[Record], None]
    ) -> None:
        """Ask the coordinator which hosts are ready.

        :param on_record: called with each record that the coordinator has kept.
        :raise FleetError: the fleet cannot be used, or no host is ready.
        """
        self._settings = settings
        self._kernels = tuple(kernels)
        self._on_record = on_record
        self.missing: tuple[str, ...] = ()
        hosts = self._ask(lambda fleet: fleet.status()).hosts
        ready = [each for each in hosts if each.state in READY and Kind.LAB in each.facts.kinds]
        self.members = tuple(
            Member(
                each.facts.name,
                each.facts.qemu,
                Host("lab", each.facts.accelerator, each.facts.name),
            )
            for each in ready
        )
        self.others = tuple(_why_not(each) for each in hosts if each not in ready)
        if not self.members:
            why = "; ".join(self.others) or "no host has joined it"
            raise FleetError(
                f"No host of the fleet can do lab work now: {why}. `kickbench fleet status` shows "
                "more."
            )

    def records(self) -> list[Record]:
        """Return the coordinator's records of these kernels in labs of these hosts.

        Records of a host whose labs had another accelerator at that time are not among them.
        """
        labs = {each.lab for each in self.members}
        found = self._ask(lambda fleet: fleet.records(self._kernels))
        return [each for each in found if each.host in labs]

    def check(self, records: Sequence[Record]) -> None:
        """Refuse to add boots to records that new ones could not be compared with.

        :raise CannotCompare: they were made with another QEMU or deadline.
        """
        check_schemas(records, [SCHEMA])
        settling.refuse_others(settling.deadlines(records, self._settings))
        for member in self.members:
            qemus = {each.qemu for each in _of(member.name, records) if each.qemu}
            if member.qemu is not None:
                settling.refuse_others({f"the QEMU of {member.name}": (qemus, member.qemu)})

    def make(self, boots: int, last: Gate | None) -> bool:
        """Boot the kernels on each host until each kernel has this many boots there.

        A host that has passed at the last look makes no more boots.

        :return: whether there is a host that can make boots.
        """
        passed = {
            each.host.machine
            for each in (last.hosts if last else ())
            if each.verdict is Verdict.PASS
        }
        open_ones = [each.name for each in self.members if each.name not in passed]
        records = self.records()
        return self._ask(lambda fleet: self.make_on(fleet, open_ones, records, boots))

    async def make_on(
        self, fleet: FleetClient, names: Sequence[str], records: Sequence[Record], boots: int
    ) -> bool:
        """Make the boots that hosts lack; see `make`.

        :param names: the hosts that are to make boots, if they can.
        :param records: the records so far.
        """
        status = await fleet.status()
        out = {each.facts.name: _why_not(each) for each in status.hosts if each.state in OUT_OF_USE}
        able = [name for name in names if name not in out]
        wanted = settling.cases(records)
        # Hosts that lack the same boots are in the same campaigns.
        alike: dict[tuple[Step, ...], list[str]] = {}
        for name in able:
            steps = settling.steps(_of(name, records), self._kernels, wanted, boots)
            alike.setdefault(tuple(steps), []).append(name)
        tasks = [
            asyncio.create_task(self._carry_out(fleet, steps, hosts, wanted))
            for steps, hosts in alike.items()
        ]
        try:
            missing = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        found = [f"{out[name]}." for name in names if name in out]
        found += [sentence for sentences in missing for sentence in sentences]
        self.missing = tuple(dict.fromkeys(found))
        return bool(able)

    async def _carry_out(
        self,
        fleet: FleetClient,
        steps: Sequence[Step],
        hosts: Sequence[str],
        wanted: Sequence[Case],
    ) -> list[str]:
        """Make what some hosts lack, and return why boots are missing at the end."""
        found: list[str] = []
        for step in steps:
            plan = Plan(
                Kind.LAB,
                step.kernels,
                tuple(interleaved(wanted, settling.TRIALS)),
                step.boots,
                tuple(hosts),
                settings=campaigns.settings_for_hosts(self._settings),
                name=step.name,
            )
            status = await campaigns.carry_out(fleet, plan, self._on_record)
            if status.state is CampaignState.CANCELLED:
                found.append(f"Campaign {status.id} was cancelled.")
            found += status.missing
        return found

    def _ask(self, work: Callable[[FleetClient], Coroutine[Any, Any, T]]) -> T:
        async def connected() -> T:
            async with campaigns.connected(self._settings) as fleet:
                return await work(fleet)

        return interrupt.run(connected())


def _of(name: str, records: Sequence[Record]) -> list[Record]:
    """Return the records of one host."""
    return [each for each in records if each.host.machine == name]


def _why_not(host: HostStatus) -> str:
    """Return why a host does not take part, in words."""
    if host.state in READY:
        return f"{host.facts.name} offers no lab work"
    reason = f" ({host.reason})" if host.reason else ""
    return f"{host.facts.name} is {host.state}{reason}"
