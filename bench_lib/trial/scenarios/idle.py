# SPDX-License-Identifier: BSD-3-Clause
"""The scenario of a guest without a migration."""

from __future__ import annotations

from bench_lib.record import ScenarioName
from bench_lib.trial.scenarios.scenario import Scenario
from bench_lib.trial.scene import Scene


class Idle(Scenario[Scene]):
    """The control: a guest that runs undisturbed."""

    name = ScenarioName.IDLE

    async def stage(self) -> Scene:
        staging = self.staging
        with staging.timeline.stage("start"):
            guest = await staging.manager.start(self._spec(), staging.deadline, staging.stack)
        with staging.timeline.stage("guest-up"):
            tids = await guest.during(guest.vcpu_tids(staging.deadline))
            await guest.during(guest.watch.ready(staging.deadline))
        return Scene(staging.plan.run, guest, tids)
