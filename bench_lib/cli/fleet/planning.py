# SPDX-License-Identifier: BSD-3-Clause
"""Which hosts and kernels a campaign over the fleet consists of, from the names that users give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bench_lib.errors import KernelAmbiguous, UnknownHost, UsageError
from bench_lib.fleet.facts import HostFacts
from bench_lib.fleet.hosts import OUT_OF_USE, unknown_host
from bench_lib.fleet.progress import listed
from bench_lib.fleet.status import FleetStatus, HostState, HostStatus
from bench_lib.fleet.work import Kind
from bench_lib.kernel.ledger import Build, Ledger, describe
from bench_lib.kernel.names import BOOTED, meant, unknown
from bench_lib.kernel.store import Store
from bench_lib.kernel.suites import Suites
from bench_lib.record import Kernel
from bench_lib.settings import Settings


def hosts(fleet: FleetStatus, kind: Kind, names: Sequence[str]) -> list[HostStatus]:
    """The hosts that are to make all boots: those of these names, or else all that can.

    Hosts that are set aside or drained are left out, unless they are named.

    :raise UnknownHost: the fleet has no host of a name, or no host that can do this kind of work.
    :raise UsageError: a host of a name does not offer this kind of work.
    """
    if not names:
        able = [each for each in able_to(fleet, kind) if each.state not in OUT_OF_USE]
        if not able:
            raise UnknownHost(_none_can(fleet, kind))
        return able
    known = {each.facts.name: each for each in fleet.hosts}
    for name in names:
        if name not in known:
            raise unknown_host(name, known)
        if kind not in known[name].facts.kinds:
            offered = " and ".join(known[name].facts.kinds) or "no"
            raise UsageError(
                f"{name} does {offered} work, but not {kind} work; leave it out, or give another "
                "kind of work with --work."
            )
    return [known[name] for name in dict.fromkeys(names)]


def able_to(fleet: FleetStatus, kind: Kind) -> list[HostStatus]:
    """The hosts that can do this kind of work, whether they are in use or not."""
    return [each for each in fleet.hosts if kind in each.facts.kinds]


def check_reboots(chosen: Iterable[HostStatus]) -> None:
    """Check that all of these hosts may be booted into another kernel.

    :raise UsageError: a host does not allow it.
    """
    unwilling = [each.facts.name for each in chosen if not each.facts.reboots]
    if unwilling:
        raise UsageError(
            f"{listed(unwilling)} may not be rebooted by the coordinator; leave out --reboot, or "
            "let the host join with `kickbench fleet join --reboot COMMAND`."
        )


def remarks(chosen: Iterable[HostStatus]) -> list[str]:
    """What the operator should know about hosts that make no boots now, as sentences."""
    found = []
    for each in chosen:
        name, why = each.facts.name, f": {each.reason}" if each.reason else ""
        if each.state in OUT_OF_USE:
            found.append(
                f"{name} is {each.state} and makes no boots until `kickbench fleet drain {name} "
                f"--undo`{why or '.'}"
            )
        elif each.state is HostState.AWAY:
            found.append(f"{name} is away, and makes its boots when it is back.")
    return found


def kernels(
    settings: Settings,
    names: Sequence[str],
    kind: Kind,
    facts: Sequence[HostFacts],
    fetch: Callable[[str], Build],
) -> list[Kernel]:
    """The kernels of these names, each once.

    For host work, the kernels that the hosts have come before those that are known here. For lab
    work they come last, and a kernel that only Debian's suites have is fetched.

    :param facts: the hosts of the campaign.
    :param fetch: gets a kernel of this name from Debian.
    :raise UsageError: `booted` does not mean one kernel.
    :raise KernelError: a name means no kernel, or several.
    """
    here = _Known(settings, kind, facts)
    return list(dict.fromkeys(_kernel(here, name, fetch) for name in names))


class _Known:
    """The kernels that a name may mean."""

    def __init__(self, settings: Settings, kind: Kind, facts: Sequence[HostFacts]) -> None:
        self.kind = kind
        self.facts = facts
        theirs = dict.fromkeys(
            kernel for each in facts for kernel in (each.kernel, *each.installed)
        )
        cached = [each.build for each in Store.of(settings).all()]
        known = Ledger(settings.ledger).builds, sorted(cached, key=lambda build: build.date)
        of_hosts = [describe(each) for each in theirs]
        self.places = (of_hosts, *known) if kind is Kind.HOST else (*known, of_hosts)
        self.suites = Suites.of(settings).meanings()


def _kernel(here: _Known, name: str, fetch: Callable[[str], Build]) -> Kernel:
    if name == BOOTED:
        return _booted(here)
    for builds in here.places:
        found = meant(name, builds, here.suites)
        if len({each.id for each in found}) > 1 and here.kind is Kind.HOST:
            each = ", ".join(f"{build.id[:12]} ({build.version})" for build in found)
            raise KernelAmbiguous(f"{name} means {len(found)} builds; name one by its id: {each}.")
        if found:
            return found[-1].kernel
    if here.kind is Kind.LAB:
        return fetch(name).kernel
    everything = [build for builds in here.places for build in builds]
    raise unknown(name, everything, "that the hosts have, or that is known here")


def _booted(here: _Known) -> Kernel:
    """The kernel that all hosts of the campaign have booted."""
    if here.kind is Kind.LAB:
        raise UsageError(
            f"No lab can boot `{BOOTED}`; name a kernel, or measure the booted one with --work "
            f"{Kind.HOST}."
        )
    booted: dict[Kernel, list[str]] = {}
    for each in here.facts:
        booted.setdefault(each.kernel, []).append(each.name)
    if len(booted) > 1:
        each_runs = "; ".join(
            f"{kernel.release} ({kernel.version}) on {listed(names)}"
            for kernel, names in booted.items()
        )
        raise UsageError(
            f"`{BOOTED}` means one kernel, but the hosts run {len(booted)}: {each_runs}. Name the "
            "kernel, or choose hosts that run the same one with --host."
        )
    return next(iter(booted))


def _none_can(fleet: FleetStatus, kind: Kind) -> str:
    out = [
        f"{each.facts.name} is {each.state}"
        for each in able_to(fleet, kind)
        if each.state in OUT_OF_USE
    ]
    others = [
        f"{each.facts.name} does not offer it"
        for each in fleet.hosts
        if kind not in each.facts.kinds
    ]
    why = "; ".join([*out, *others]) or "none has joined"
    return f"No host of the fleet can do {kind} work now: {why}."
