# SPDX-License-Identifier: BSD-3-Clause
"""The result of one of the doctor's checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from bench_lib.errors import KickbenchError
from bench_lib.host import needs
from bench_lib.host.need import Need
from bench_lib.settings import Settings


class Status(StrEnum):
    """The status of a check."""

    FINE = "fine"
    DEGRADED = "degraded"
    """Results are possible, but some will be missing or less exact."""
    MISSING = "missing"
    """Trials cannot run without it: under the booted kernel, in the lab, or both."""


@dataclass(frozen=True)
class Finding:
    """The result of one check, which is printed as a row.

    :ivar name: the name of the row.
    :ivar found: what the check has found.
    :ivar means: what that means for results; "" if the row is fine.
    :ivar fix: a shell command that makes the row fine; None if kickbench knows none.
    """

    name: str
    status: Status
    found: str
    means: str = ""
    fix: str | None = None


def tried(
    name: str,
    check: Callable[[], str],
    status: Status,
    means: str,
    fix: Callable[[], str | None],
) -> Finding:
    """The row of a check that returns what it has found, or raises an error.

    :param status: the row's status if the check fails.
    :param means: what a failure means for results.
    :param fix: returns the command for a failure.
    """
    try:
        return Finding(name, Status.FINE, check())
    except (KickbenchError, OSError) as error:
        return Finding(name, status, str(error), means, fix())


def of_need(
    need: Need,
    settings: Settings,
    status: Status = Status.MISSING,
    *,
    name: str | None = None,
) -> Finding:
    """The row of a need. If the need is not met, the row has preflight's error.

    :param status: the row's status if the need is not met.
    :param name: the row's name; by default the need's.
    """
    return tried(
        name or need,
        lambda: needs.check(need, settings),
        status,
        needs.consequence(need),
        lambda: needs.fix(need, settings),
    )
