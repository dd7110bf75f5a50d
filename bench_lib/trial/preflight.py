# SPDX-License-Identifier: BSD-3-Clause
"""What has to be true of a host before any trial, checked in a moment."""

from __future__ import annotations

from collections.abc import Sequence

from bench_lib.errors import HostError
from bench_lib.host import needs, setup
from bench_lib.host.need import PROGRAMS, Need
from bench_lib.record import RequestName
from bench_lib.settings import Settings
from bench_lib.trial.case import Case
from bench_lib.trial.requests.description import REQUESTS
from bench_lib.trial.scenarios.description import MIGRATION, SCENARIOS

ALWAYS = frozenset({Need.ARCHITECTURE, Need.KVM, Need.ROOT, Need.QEMU, Need.STACKS})
"""What every trial needs."""


def needs_of(case: Case) -> frozenset[Need]:
    """What a trial of this case needs beside what every trial does."""
    return SCENARIOS[case.scenario].needs | REQUESTS[case.request].needs


def check(settings: Settings, cases: Sequence[Case] | None = None) -> None:
    """Refuse a host on which not every one of `cases` could succeed.

    :param cases: None where they are not known yet; then what migrations need is checked as well.
    :raise HostError: the class and the sentence say what is missing.
    """
    if cases is None:
        needs.check_all(ALWAYS | MIGRATION, settings)
        return
    needs.check_all(ALWAYS.union(*map(needs_of, cases)), settings)
    setup.check_huge_pages(max((case.huge_pages for case in cases), default=0))


def lacking(request: RequestName, *, lab: bool) -> str | None:
    """What this host lacks for a request; None for nothing.

    :param lab: of a lab on this host, which has its programs, but rights of its own.
    """
    wanted = REQUESTS[request].needs
    try:
        needs.check_all(wanted & PROGRAMS if lab else wanted, Settings.from_environment())
    except HostError as error:
        return str(error)
    return None
