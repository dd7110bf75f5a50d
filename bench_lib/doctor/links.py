# SPDX-License-Identifier: BSD-3-Clause
"""Rows about links: each way to cut one or to make one slow, tried on one that is made for that."""

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


def rows(settings: Settings) -> Iterator[Finding]:
    """The programs, and what they can do here."""
    tools = of_need(Need.NETWORK, settings)
    yield tools
    if os.geteuid() != 0:
        yield Finding(OUTAGES, Status.MISSING, "not tried", "it takes root to break a link")
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
        yield Finding(OUTAGES, Status.DEGRADED, "not tried", f"{error} Then ask again.")
        return
    except HostError as error:
        yield Finding(OUTAGES, Status.MISSING, str(error), needs.lost(Need.NETWORK))
        return
    yield from of_survey(answers)


def of_survey(answers: dict[str, str | None]) -> Iterator[Finding]:
    """What works. :param answers: of `outage.survey`."""
    yield _mechanisms(OUTAGES, outage.MECHANISMS, answers, Status.MISSING, "tc cuts no link", None)
    yield _mechanisms(
        "slow links",
        outage.DEGRADATIONS,
        answers,
        Status.DEGRADED,
        f"no trials in {ScenarioName.DEGRADED}",
        f"links in {ScenarioName.DEGRADED} are slow, but neither late nor lossy",
    )


def _mechanisms(
    name: str,
    mechanisms: tuple[outage.Mechanism, ...],
    answers: dict[str, str | None],
    status: Status,
    without_any: str,
    without_first: str | None,
) -> Finding:
    """:param status: if none works. :param without_first: what another than the first means."""
    names = [each.name for each in mechanisms]
    working = [each for each in names if answers[each] is None]
    found = ", ".join(working)
    failed = "; ".join(
        # What tc said, without the command that it was said to.
        f"not {each}: {answer.rpartition('): ')[2]}"
        for each in names
        if (answer := answers[each])
    )
    if failed:
        found = f"{found} ({failed})" if found else failed
    if not working:
        return Finding(name, status, found, without_any, _netem())
    if without_first and working[0] != names[0]:
        fix = _netem()
        why = "" if fix else "; this kernel has no sch_netem"
        return Finding(name, Status.DEGRADED, found, f"{without_first}{why}", fix)
    return Finding(name, Status.FINE, found)


def _netem() -> str | None:
    """What loads netem, where this kernel was built with it."""
    try:
        run_tool(["modinfo", "sch_netem"])
    except KickbenchError:
        return None
    return shell.as_root("modprobe sch_netem")
