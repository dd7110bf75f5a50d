# SPDX-License-Identifier: BSD-3-Clause
"""Runs that are asked for trials of which this host can make only some."""

from __future__ import annotations

import pytest

from bench_lib import record
from bench_lib.errors import FuseUnavailable, OutageUnavailable
from bench_lib.host import needs
from bench_lib.host.need import Need
from bench_lib.network.link import Link
from bench_lib.network.outage import Mechanism
from bench_lib.record import Outcome, RequestName, ScenarioName
from bench_lib.settings import Settings
from bench_lib.trial import batch
from bench_lib.trial.batch import NativeRunner
from bench_lib.trial.case import Case

pytestmark = pytest.mark.usefixtures("clean_host", "runtime")

IDLE, FUSE, DEGRADED = (
    Case(each, RequestName.STOP)
    for each in (ScenarioName.IDLE, ScenarioName.FUSE_HOLD, ScenarioName.DEGRADED)
)

check = needs.check


@pytest.fixture
def poor(monkeypatch: pytest.MonkeyPatch) -> None:
    """This host without FUSE, and without a way to make links slow."""

    def without_fuse(need: Need, settings: Settings) -> str:
        if need is Need.FUSE:
            raise FuseUnavailable("There is no /dev/fuse.")
        return check(need, settings)

    async def without_tbf(probe: Link) -> Mechanism:
        raise OutageUnavailable("There is no sch_tbf.")

    monkeypatch.setattr(needs, "check", without_fuse)
    monkeypatch.setitem(batch.CHOOSE, ScenarioName.DEGRADED, without_tbf)


@pytest.mark.usefixtures("poor")
def test_trials_that_cannot_be_tried_are_lost_and_the_others_are_made() -> None:
    settings = Settings.from_environment()
    made = NativeRunner(settings).run([FUSE, IDLE, DEGRADED], lambda each: None)
    assert [(each.outcome, each.tried, each.reason) for each in made] == [
        (Outcome.LOST, False, "There is no /dev/fuse."),
        (Outcome.RETURNED, True, None),
        (Outcome.LOST, False, "There is no sch_tbf."),
    ]
    assert record.read(settings.records) == (made, [])


@pytest.mark.usefixtures("poor")
@pytest.mark.parametrize(
    ("case", "error"), [(FUSE, FuseUnavailable), (DEGRADED, OutageUnavailable)]
)
def test_a_host_that_can_try_none_of_the_trials_is_refused(
    case: Case, error: type[Exception]
) -> None:
    with pytest.raises(error):
        NativeRunner(Settings.from_environment()).run([case, case], lambda each: None)
