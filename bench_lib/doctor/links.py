# SPDX-License-Identifier: BSD-3-Clause
"""Rows about links: try each way to cut a link or to slow it down, on a link made for the test."""

from __future__ import annotations

import os
from collections.abc import Iterator

from bench_lib import interrupt, ownership
from bench_lib.doctor.finding import Finding, Status, of_need
from bench_lib.errors import HostBusy, HostError, KickbenchError
from bench_lib.host import needs, shell
from bench_lib.host.need import Need
from bench_lib.network import link, outage
from bench_lib.ownership import Run
from bench_lib.process import run_tool
from bench_lib.record import ScenarioName
from bench_lib.settings import Settings

OUTAGES = "outages"
SLOW = "slow links"


def rows(settings: Settings) -> Iterator[Finding]:
    """Check the programs that make and break links, and what they can do on this host."""
    tools = of_need(Need.NETWORK, settings)
    yield tools
    if os.geteuid() != 0:
        yield Finding(OUTAGES, Status.MISSING, "not tried", "breaking a link needs root")
        return
    if tools.status is not Status.FINE:
        yield Finding(OUTAGES, Status.MISSING, tools.found, tools.means, tools.fix)
        return
    namespaces = of_need(Need.NAMESPACES, settings, name=OUTAGES)
    if namespaces.status is not Status.FINE:
        yield namespaces
        return

    async def survey(run: Run) -> dict[str, str | None]:
        with link.joined(run, 0) as probe:
            return await outage.survey(probe)

    try:
        with ownership.measuring(settings.runtime) as run:
            answers = interrupt.run(survey(run))
    except HostBusy as error:
        means = f"{error} Then run the doctor again."
        yield Finding(OUTAGES, Status.DEGRADED, "not tried", means)
        return
    except HostError as error:
        yield Finding(OUTAGES, Status.MISSING, str(error), needs.consequence(Need.NETWORK))
        return
    yield from of_survey(answers)


def of_survey(answers: dict[str, str | None]) -> Iterator[Finding]:
    """The rows of a survey.

    :param answers: the result of `outage.survey`.
    """
    yield _mechanisms(
        OUTAGES,
        outage.MECHANISMS,
        answers,
        Status.MISSING,
        "tc cannot cut a link, so scenarios with an outage cannot run",
        None,
    )
    yield _mechanisms(
        SLOW,
        outage.DEGRADATIONS,
        answers,
        Status.DEGRADED,
        f"the scenario {ScenarioName.DEGRADED} cannot run",
        f"the link of the scenario {ScenarioName.DEGRADED} is slow, but has no delay and no loss",
    )


def _mechanisms(
    name: str,
    mechanisms: tuple[outage.Mechanism, ...],
    answers: dict[str, str | None],
    status: Status,
    without_any: str,
    without_first: str | None,
) -> Finding:
    """The row of some mechanisms that serve the same purpose.

    :param status: the row's status if no mechanism works.
    :param without_any: what it means for results if no mechanism works.
    :param without_first: what it means if the first one does not work; None if nothing.
    """
    names = [each.name for each in mechanisms]
    working = [each for each in names if answers[each] is None]
    found = ", ".join(working)
    failed = "; ".join(
        # Show only tc's own message, without the command.
        f"{each} does not work: {answer.rpartition('): ')[2]}"
        for each in names
        if (answer := answers[each])
    )
    if failed:
        found = f"{found} ({failed})" if found else failed
    if not working:
        return Finding(name, status, found, without_any, _netem())
    if without_first and working[0] != names[0]:
        fix = _netem()
        why = "" if fix else ", because this kernel has no sch_netem"
        return Finding(name, Status.DEGRADED, found, f"{without_first}{why}", fix)
    return Finding(name, Status.FINE, found)


def _netem() -> str | None:
    """The command that loads netem; None if the kernel has no such module."""
    try:
        run_tool(["modinfo", "sch_netem"])
    except KickbenchError:
        return None
    return shell.as_root("modprobe sch_netem")
