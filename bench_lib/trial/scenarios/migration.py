# SPDX-License-Identifier: BSD-3-Clause
"""Scenarios in which a postcopy migration fails after the guest runs at the destination."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from typing import ClassVar

from bench_lib.errors import MigrationFailed, OutageNotProven
from bench_lib.guest.qemu import GuestConfig
from bench_lib.migration import PORT, Phase
from bench_lib.network import link, outage, tcp
from bench_lib.network.link import End
from bench_lib.network.outage import Mechanism
from bench_lib.network.traffic import Traffic
from bench_lib.record import Recovery, ScenarioName
from bench_lib.trial import proof
from bench_lib.trial.recovery import recover
from bench_lib.trial.requests.request import Request
from bench_lib.trial.scenarios.scenario import Scenario
from bench_lib.trial.scene import MigrationScene, Staging


class MigrationScenario(Scenario[MigrationScene]):
    """Two guests, a link between them, and a postcopy migration over it.

    :cvar breaks: whether the migration has to be recovered. If not, it continues by itself.
    :cvar source_may_end: whether the scenario kills the source after the guest has left it.
    """

    breaks: ClassVar[bool] = True
    source_may_end: ClassVar[bool] = False

    def __init__(self, staging: Staging) -> None:
        super().__init__(staging)
        self._stall = ExitStack()

    async def stage(self) -> MigrationScene:
        staging = self.staging
        plan, shape = staging.plan, staging.case.shape
        target = self._spec()
        with staging.timeline.stage("start"):
            ends = staging.stack.enter_context(link.joined(plan.run, staging.seq))
            traffic = Traffic(ends, staging.stack)
            name = plan.run.name(staging.seq, "source")
            origin = GuestConfig(
                name,
                plan.qemu,
                staging.workload,
                shape,
                netns_fd=ends.source.fd,
                memory_slot=target.memory_slot,
                state=staging.state,
            )
            incoming = dataclasses.replace(
                target, incoming=True, netns_fd=ends.destination.fd, state=None
            )
            address = ends.destination.address
            migration = await staging.manager.start_pair(
                origin, incoming, address, staging.deadline, staging.stack
            )
            source, destination = (side.guest for side in migration.sides)
            self._kill_at_the_end(source, destination)

        async def guest_up() -> list[int]:
            # Query this now, because a destination with a hung vCPU may not answer.
            tids = await destination.vcpu_tids(staging.deadline)
            await source.watch.ready(staging.deadline)
            return tids

        with staging.timeline.stage("guest-up"):
            tids = await migration.during(guest_up())
        return MigrationScene(
            plan.run,
            destination,
            tids,
            link=ends,
            traffic=traffic,
            migration=migration,
            source_may_end=self.source_may_end,
        )

    async def strand(self, scene: MigrationScene) -> str | None:
        staging, migration = self.staging, scene.migration

        async def cross() -> None:
            await self._cross(scene)

        async def fail() -> str | None:
            await scene.traffic.prove_open()
            return await self._fail(scene)

        with staging.timeline.stage("postcopy"):
            await migration.during(cross())
        with staging.timeline.stage("outage"):
            return await scene.during(fail())

    async def _cross(self, scene: MigrationScene) -> None:
        """Migrate until the guest runs at the destination, in postcopy."""
        deadline = self.staging.deadline
        await scene.migration.start(scene.link.destination.address, deadline)
        await scene.migration.switch(deadline)
        await scene.migration.destination.resumes(deadline)
        if self.staging.workload.prescribes is None:
            # Otherwise it would depend on the moment whether the pages that KVM shares with the
            # guest are missing. The scenarios at the switch are those in which they are.
            await proof.in_guest(scene.guest.child.pid, scene.tids, deadline)

    @abstractmethod
    async def _fail(self, scene: MigrationScene) -> str | None:
        """Make the failure happen and prove it.

        :return: the mechanism that made it; None if there is no failure.
        :raise TrialLost: the failure could not be proved.
        """

    async def recover(
        self, scene: MigrationScene, request: Request, limit_s: float, *, answered: bool
    ) -> Recovery:
        async def release() -> None:
            await self.release(scene)

        return await recover(
            scene, request, limit_s, release, answered=answered, breaks=self.breaks
        )

    async def release(self, scene: MigrationScene) -> None:
        self._stall.close()

    @property
    def _mechanism(self) -> Mechanism:
        """The mechanism that cuts links on this host."""
        mechanism = self.staging.plan.mechanism
        assert mechanism is not None
        return mechanism

    def _cut(self, ends: Sequence[End], mechanism: Mechanism | None = None) -> None:
        """Apply a mechanism to everything that these ends send. The release removes it.

        :param mechanism: by default the mechanism that cuts links on this host.
        """
        chosen = mechanism or self._mechanism
        outage.cut(ends, chosen)
        self._stall.callback(outage.restore, ends, chosen)

    async def _both_reach_paused(self, scene: MigrationScene) -> None:
        for side in scene.migration.sides:
            await side.reaches(Phase.PAUSED, self.staging.deadline)


def _both_in(scene: MigrationScene, phase: Phase) -> None:
    """Check that both sides are in `phase`.

    :raise MigrationFailed: a side is in another phase.
    """
    for side in scene.migration.sides:
        if side.phase is not phase:
            raise MigrationFailed(
                f"{side.guest.name} was in state {side.phase.value} instead of {phase.value}."
            )


class Postcopy(MigrationScenario):
    """Nothing fails. Pages arrive when they are requested, so vCPUs are stuck only for moments."""

    name = ScenarioName.POSTCOPY
    breaks = False

    async def _fail(self, scene: MigrationScene) -> str | None:
        _both_in(scene, Phase.POSTCOPY)
        return None


class Blackhole(MigrationScenario):
    """Every packet is dropped, and neither side notices."""

    name = ScenarioName.BLACKHOLE

    async def _fail(self, scene: MigrationScene) -> str | None:
        self._cut(scene.link.ends)
        await scene.traffic.prove_cut()
        _both_in(scene, Phase.POSTCOPY)
        return self._mechanism.name


class BlackholeReturn(MigrationScenario):
    """Packets from the destination are dropped, so its requests do not reach the source.

    A few pages that were not requested still arrive, until TCP at the source waits for
    acknowledgements. A vCPU is stuck for good if it was stuck for longer than such a page takes.
    """

    name = ScenarioName.BLACKHOLE_RETURN

    async def _fail(self, scene: MigrationScene) -> str | None:
        self._cut([scene.link.destination])
        await scene.traffic.prove_cut(to_source_only=True)
        _both_in(scene, Phase.POSTCOPY)
        return self._mechanism.name


class LinkDown(MigrationScenario):
    """The link has no carrier. The TCP connection survives that, as it survives dropped packets."""

    name = ScenarioName.LINK_DOWN

    async def _fail(self, scene: MigrationScene) -> str | None:
        outage.take_down(scene.link)
        self._stall.callback(outage.bring_up, scene.link)
        await scene.traffic.prove_cut()
        _both_in(scene, Phase.POSTCOPY)
        return "link-down"


class Paused(MigrationScenario):
    """The connection was reset, and both sides have noticed."""

    name = ScenarioName.PAUSED

    async def _fail(self, scene: MigrationScene) -> str | None:
        tcp.reset(scene.link, PORT)
        await self._both_reach_paused(scene)
        return "tcp-reset"


class PausedTimeout(MigrationScenario):
    """Packets are dropped until TCP has given up the connection on both sides.

    TCP gives up only if it has sent data that is not acknowledged. The source sends all the time,
    but the destination only when a vCPU touches another page. If all of its data had been
    acknowledged just before the cut, it would wait for ever. So its packets are dropped first,
    until it has sent a request that is not acknowledged.
    """

    name = ScenarioName.PAUSED_TIMEOUT

    async def _fail(self, scene: MigrationScene) -> str | None:
        source, destination = scene.link.ends
        tcp.shorten_timeouts(scene.link)
        self._cut([destination])
        await self.staging.deadline.poll(
            lambda: tcp.unacknowledged(destination, PORT) or None,
            "A request without an acknowledgement",
        )
        self._cut([source])
        await self._both_reach_paused(scene)
        return f"{self._mechanism.name}, tcp-timeout"


class PausedCommand(MigrationScenario):
    """An operator has paused the migration with `migrate-pause`; the link works."""

    name = ScenarioName.PAUSED_COMMAND

    async def _fail(self, scene: MigrationScene) -> str | None:
        await scene.migration.sends_pages(self.staging.deadline)
        await scene.migration.pause(self.staging.deadline)
        return "migrate-pause"


class Degraded(MigrationScenario):
    """The link is slow, and has delay and loss if the kernel can add them."""

    name = ScenarioName.DEGRADED
    breaks = False

    async def _fail(self, scene: MigrationScene) -> str | None:
        degradation = self.staging.plan.degradation
        assert degradation is not None
        self._cut(scene.link.ends, degradation)
        await scene.traffic.prove_slow()
        _both_in(scene, Phase.POSTCOPY)
        return degradation.name


class Flapping(MigrationScenario):
    """The link has short outages until the end of the trial. The migration completes regardless."""

    name = ScenarioName.FLAPPING
    breaks = False

    async def _fail(self, scene: MigrationScene) -> str | None:
        staging = self.staging
        staging.stack.enter_context(outage.flapping(scene.run, scene.link, self._mechanism))
        while True:
            try:
                await scene.traffic.prove_cut()
            except OutageNotProven:
                if staging.deadline.passed:
                    raise
            else:
                break
        _both_in(scene, Phase.POSTCOPY)
        return f"{self._mechanism.name}, flapping"
