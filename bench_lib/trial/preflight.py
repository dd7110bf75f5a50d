"""What has to be true of a host before any trial, checked in a moment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from bench_lib.errors import HostError, HugepagesMissing, NotRoot, ProgramMissing
from bench_lib.host import setup
from bench_lib.kvm import device
from bench_lib.record import RequestName
from bench_lib.settings import Settings
from bench_lib.trial.case import HUGE_MIB, Case
from bench_lib.trial.requests import REQUESTS

TOOLS = ("ip", "tc", "ss")


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
    for program in (settings.qemu, *TOOLS):
        if shutil.which(program) is None:
            raise ProgramMissing(f"{program} is not installed; `make bench` installs it.")
    for request in dict.fromkeys(case.request for case in cases):
        REQUESTS[request].check_host()
    _check_huge_pages(max((case.huge_pages for case in cases), default=0))


def lacking(request: RequestName, *, lab: bool) -> str | None:
    """What this host lacks for a request; None for nothing.

    :param lab: of a lab on this host, which has its programs, but rights of its own.
    """
    try:
        REQUESTS[request].check_host()
    except ProgramMissing as error:
        return str(error)
    except HostError as error:
        return None if lab else str(error)
    return None


def _check_huge_pages(needed: int) -> None:
    there = setup.free_huge_pages()
    if there < needed:
        raise HugepagesMissing(
            f"The guests need {needed} free huge pages of {HUGE_MIB} MiB, and this host has "
            f"{there}: `{setup.more_huge_pages(needed)}` makes room for them."
        )
