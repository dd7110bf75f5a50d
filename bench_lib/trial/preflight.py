"""What has to be true of a host before any trial, checked in a moment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence

from bench_lib import ptrace
from bench_lib.errors import HostError, NotRoot, ProgramMissing
from bench_lib.guest import debugger
from bench_lib.host import device, setup
from bench_lib.host.needs import Need
from bench_lib.record import RequestName
from bench_lib.settings import Settings
from bench_lib.trial.case import Case
from bench_lib.trial.requests.description import REQUESTS
from bench_lib.trial.scenarios.description import SCENARIOS

TOOLS = ("ip", "tc", "ss")


def _programs(*names: str) -> None:
    for name in names:
        if shutil.which(name) is None:
            raise ProgramMissing(f"{name} is not installed; `make bench` installs it.")


_CHECKS: dict[Need, Callable[[], None]] = {
    Need.NETWORK: lambda: _programs(*TOOLS),
    Need.GDB: debugger.check_gdb,
    Need.PTRACE: ptrace.check,
    Need.PTRACE_SIBLING: lambda: ptrace.check(sibling=True),
}


def check(settings: Settings, cases: Sequence[Case] = ()) -> None:
    """Refuse a host on which no trial could succeed, or not every one of `cases`.

    :raise HostError: the class and the sentence say what is missing.
    """
    device.check()
    if os.geteuid() != 0:
        raise NotRoot(
            "Trials make network namespaces and read kernel stacks, which needs root: "
            "run this with sudo."
        )
    _programs(settings.qemu)
    needs = {need for case in cases for need in needs_of(case)}
    for need in (each for each in Need if each in needs):
        _CHECKS[need]()
    setup.check_huge_pages(max((case.huge_pages for case in cases), default=0))


def needs_of(case: Case) -> frozenset[Need]:
    """What a host must have for a trial of this case."""
    return SCENARIOS[case.scenario].needs | REQUESTS[case.request].needs


def lacking(request: RequestName, *, lab: bool) -> str | None:
    """What this host lacks for a request; None for nothing.

    :param lab: of a lab on this host, which has its programs, but rights of its own.
    """
    try:
        for need in sorted(REQUESTS[request].needs):
            _CHECKS[need]()
    except ProgramMissing as error:
        return str(error)
    except HostError as error:
        return None if lab else str(error)
    return None
