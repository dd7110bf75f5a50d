# SPDX-License-Identifier: BSD-3-Clause
"""Quick checks of a host before any trial."""

from __future__ import annotations

from collections.abc import Sequence

from bench_lib.errors import HostError
from bench_lib.host import needs, setup
from bench_lib.host.need import PROGRAMS, Need
from bench_lib.record import ManagerName, RequestName, ScenarioName
from bench_lib.settings import Settings
from bench_lib.trial.case import Case
from bench_lib.trial.requests.description import REQUESTS
from bench_lib.trial.scenarios.description import MIGRATION, SCENARIOS

ALWAYS = frozenset({Need.ARCHITECTURE, Need.KVM, Need.ROOT, Need.QEMU, Need.STACKS})
"""The needs of every trial."""

MANAGERS = {ManagerName.QEMU: frozenset[Need](), ManagerName.LIBVIRT: frozenset({Need.LIBVIRT})}
"""What each manager needs."""


def needs_of(case: Case) -> frozenset[Need]:
    """Return the needs of a case beside those of every trial."""
    requests = [case.request, *([case.then] if case.then else [])]
    needs_of_requests = frozenset[Need]().union(*(REQUESTS[each].needs for each in requests))
    return SCENARIOS[case.scenario].needs | needs_of_requests | MANAGERS[case.manager]


def check(settings: Settings, cases: Sequence[Case] | None = None) -> None:
    """Check that this host has what all of `cases` need.

    :param cases: None if they are not known yet. Then the needs of migrations are checked too.
    :raise HostError: something is missing; the class and the message show what.
    """
    if cases is None:
        needs.check_all(ALWAYS | MIGRATION, settings)
        return
    needs.check_all(ALWAYS.union(*map(needs_of, cases)), settings)
    setup.check_huge_pages(max((case.huge_pages for case in cases), default=0))
    most = max(cases, key=lambda case: case.copies * case.memory_mib, default=None)
    if most is not None and most.memory_mib:
        setup.check_memory(most.copies, most.memory_mib)


def untried(settings: Settings, cases: Sequence[Case]) -> dict[Case, str]:
    """Return the cases that this host cannot try although it may try others, and the reasons.

    It lacks something that only their scenarios or requests need. If that holds for all cases of a
    host that is not a lab, nothing is returned, and `check` refuses the host. The host of a lab
    decides itself whether other kernels are measured nevertheless.
    """
    usual = ALWAYS | MIGRATION | MANAGERS[ManagerName.LIBVIRT]
    why = {}
    for case in dict.fromkeys(cases):
        try:
            needs.check_all(needs_of(case) - usual, settings)
        except HostError as error:
            why[case] = str(error)
    return {} if why.keys() == set(cases) and settings.lab is None else why


def lacking(request: RequestName, manager: ManagerName, *, lab: bool) -> str | None:
    """Return what this host lacks for a request, or None if it lacks nothing.

    :param lab: whether the request is made in a lab on this host. A lab has the host's programs,
        but a kernel and rights of its own.
    """
    missing = _missing(REQUESTS[request].needs | MANAGERS[manager], lab=lab)
    return None if missing is None else str(missing)


def not_staged(scenario: ScenarioName, *, lab: bool) -> HostError | None:
    """Return an error that names what this host lacks for a scenario, or None if it lacks nothing.

    :param lab: whether the scenario is staged in a lab on this host; see `lacking`.
    """
    return _missing(SCENARIOS[scenario].needs, lab=lab)


def _missing(wanted: frozenset[Need], *, lab: bool) -> HostError | None:
    try:
        needs.check_all(wanted & PROGRAMS if lab else wanted, Settings.from_environment())
    except HostError as error:
        return error
    return None
