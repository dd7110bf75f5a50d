# SPDX-License-Identifier: BSD-3-Clause
"""One check of the doctor's, and how it comes about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from bench_lib.errors import KickbenchError
from bench_lib.host import needs
from bench_lib.host.need import Need
from bench_lib.settings import Settings


class Status(StrEnum):
    """How a check came out."""

    FINE = "fine"
    DEGRADED = "degraded"
    """Something will be missing in the results, or wrong with them."""
    MISSING = "missing"
    """Without it there are none."""


@dataclass(frozen=True)
class Finding:
    """One check.

    :ivar found: what is there.
    :ivar means: what follows from that for results; "" where the row is fine.
    :ivar fix: a command that makes the row fine; None where none does.
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
    """A row of what a check says, or of why it failed. :param status: then."""
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
    """The row of a need: met, or with the sentence by which preflight refuses a host.

    :param status: where it is not met.
    :param name: where the row is about more than this need.
    """
    return tried(
        name or need,
        lambda: needs.check(need, settings),
        status,
        needs.lost(need),
        lambda: needs.fix(need, settings),
    )
