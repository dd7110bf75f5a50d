# SPDX-License-Identifier: BSD-3-Clause
"""Running a list of trials, one after the other, and keeping their records."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from bench_lib import interrupt, ownership
from bench_lib.deadline import Deadline
from bench_lib.errors import OutageUnavailable
from bench_lib.guest import features, image
from bench_lib.guest.workloads.description import LINUX
from bench_lib.guest.workloads.firmware import Firmware
from bench_lib.guest.workloads.workload import Workload
from bench_lib.host import identity, setup
from bench_lib.host.need import Need
from bench_lib.libvirt.manager import LibvirtManager
from bench_lib.migration import Manager, QemuManager
from bench_lib.network import link, outage
from bench_lib.network.link import Link
from bench_lib.network.outage import Mechanism
from bench_lib.ownership import Run
from bench_lib.record import ManagerName, Record, RequestName, ScenarioName, Shape
from bench_lib.settings import Settings
from bench_lib.trial import linux_guests, preflight
from bench_lib.trial.case import Case
from bench_lib.trial.history import History
from bench_lib.trial.one import Limits, trial
from bench_lib.trial.requests.description import deadline_s
from bench_lib.trial.scenarios.description import SCENARIOS
from bench_lib.trial.scene import Plan

CHOOSE: dict[ScenarioName, Callable[[Link], Awaitable[Mechanism]]] = {
    ScenarioName.DEGRADED: outage.choose_degradation,
}
"""Chooses the mechanism of each scenario that has one of its own. The other scenarios cut the link,
or need no mechanism."""


@dataclass(frozen=True)
class NativeRunner:
    """Makes trials on this host, under the booted kernel."""

    settings: Settings

    def run(self, cases: Sequence[Case], on_record: Callable[[Record], None]) -> list[Record]:
        """Make a trial of each of `cases`, in this order, as `make` describes.

        Each record is appended to the record file before the next trial starts.

        :param on_record: called with each record after it has been appended.
        :raise RecordNotWritten: a record could not be appended; earlier records are kept.
        """
        history = History(self.settings)
        records = []

        def keep(made: Record) -> None:
            history.keep(made)
            records.append(made)
            on_record(made)

        make(cases, self.settings, keep)
        return records


def make(cases: Sequence[Case], settings: Settings, keep: Callable[[Record], None]) -> None:
    """Make a trial of each of `cases` on this host, in this order.

    If this host lacks what only some of the cases need, their trials are lost and the others are
    made. SIGINT, SIGTERM and SIGHUP end the running trial and everything that it has started.

    :param keep: called with each record before the next trial starts; the caller stores it.
    :raise HostError: this host cannot run trials, and no trial was run.
    :raise BadShape: this host cannot have such a guest.
    :raise Interrupted: one of the signals arrived.
    """
    untried = preflight.untried(settings, cases)
    preflight.check(settings, [each for each in cases if each not in untried])
    with ownership.measuring(settings.runtime) as owner:
        interrupt.run(_run(cases, untried, settings, owner, keep))


async def _run(
    cases: Sequence[Case],
    untried: Mapping[Case, str],
    settings: Settings,
    owner: Run,
    keep: Callable[[Record], None],
) -> None:
    shapes = {case.shape for case in cases}
    found = await features.check(owner, settings.qemu, shapes, Deadline.after(settings.staging_s))
    plan = await _plan(cases, untried, settings, owner, found.version)
    managers: dict[ManagerName, Manager] = {
        ManagerName.QEMU: QemuManager(owner),
        ManagerName.LIBVIRT: LibvirtManager(owner, settings.cache),
    }
    for seq, case in enumerate(cases, start=1):
        then_s = deadline_s(case.then, settings) if case.then else 0.0
        limits = Limits(case.staging_s(settings), case.deadline_s(settings), then_s)
        keep(await trial(plan, managers[case.manager], seq, case, limits))


def unavailable(scenarios: Collection[ScenarioName], settings: Settings) -> dict[ScenarioName, str]:
    """Return the scenarios whose own mechanism the booted kernel lacks, and the reason for each.

    :raise HostError: this host cannot run trials.
    """
    tried = [each for each in CHOOSE if each in scenarios]
    if not tried:
        return {}
    preflight.check(settings, [Case(each, RequestName.STOP) for each in tried])
    with ownership.measuring(settings.runtime) as owner:
        return interrupt.run(_unavailable(tried, owner))


async def _unavailable(tried: Sequence[ScenarioName], owner: Run) -> dict[ScenarioName, str]:
    why = {}
    with link.joined(owner, 0) as probe:
        for each in tried:
            try:
                await CHOOSE[each](probe)
            except OutageUnavailable as error:
                why[each] = str(error)
    return why


async def _plan(
    cases: Sequence[Case], untried: Mapping[Case, str], settings: Settings, owner: Run, qemu: str
) -> Plan:
    """Prepare what all trials share. Find with a temporary link how links can be cut here.

    :param untried: the cases that this host cannot try, and the reasons.
    :param qemu: QEMU's version.
    :raise GuestNotBooted: this host cannot boot a Linux guest that a case needs.
    :raise OutageUnavailable: the kernel lacks a mechanism that all cases need.
    """
    mechanism = degradation = None
    untried = dict(untried)
    tried = [case for case in cases if case not in untried]
    if any(Need.NETWORK in SCENARIOS[case.scenario].needs for case in tried):
        with link.joined(owner, 0) as probe:
            mechanism = await outage.choose(probe)
            if degraded := {each for each in tried if each.scenario is ScenarioName.DEGRADED}:
                try:
                    degradation = await CHOOSE[ScenarioName.DEGRADED](probe)
                except OutageUnavailable as error:
                    if degraded == set(tried):
                        raise
                    untried |= dict.fromkeys(degraded, str(error))
    return Plan(
        run=owner,
        host=identity.this_host(settings.lab),
        setup=setup.of_this_machine(),
        qemu=settings.qemu,
        workloads=await _workloads(cases, settings, owner, qemu),
        mechanism=mechanism,
        degradation=degradation,
        untried=untried,
    )


async def _workloads(
    cases: Sequence[Case], settings: Settings, owner: Run, qemu: str
) -> dict[Shape, Workload]:
    """Prepare what the guests run."""
    shapes = {case.shape for case in cases}
    linux = {shape for shape in shapes if shape.image == LINUX}
    restored = {case.shape for case in cases if case.shape in linux and not case.boots}
    images = {shape.image: None for shape in shapes - linux}
    firmware = {name: Firmware(image.load(settings.images, name)) for name in images}
    return {
        **{shape: firmware[shape.image] for shape in shapes - linux},
        **await linux_guests.prepared(owner, settings, qemu, linux, restored),
    }
