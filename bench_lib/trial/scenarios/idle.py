# SPDX-License-Identifier: BSD-3-Clause
"""A guest that runs where it was started."""

from __future__ import annotations

from bench_lib.record import ScenarioName
from bench_lib.trial.scenarios.scenario import Scenario
from bench_lib.trial.scene import Scene


class Idle(Scenario[Scene]):
    """The control: nothing is wrong."""

    name = ScenarioName.IDLE

    async def stage(self) -> Scene:
        staging = self.staging
        with staging.timeline.stage("start"):
            (guest,) = await self._started(self._spec())
        with staging.timeline.stage("guest-up"):
            tids = await guest.during(guest.vcpu_tids(staging.deadline))
            await guest.during(guest.watch.ready(staging.deadline))
        return Scene(staging.plan.run, guest, tids)
