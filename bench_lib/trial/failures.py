"""What goes wrong with a migration in each scenario, and how it is made good again."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import ClassVar

from bench_lib.deadline import Deadline
from bench_lib.errors import OutageNotProven
from bench_lib.migration import PORT, Phase
from bench_lib.network import outage
from bench_lib.network.outage import Mechanism
from bench_lib.record import ScenarioName
from bench_lib.trial.staging import Pair, Plan, Scene
from bench_lib.trial.timeline import Timeline


class Failure:
    """Something that goes wrong, and how it is made good again.

    :cvar stuck: whether the vCPUs must be seen stuck.
    :cvar apart_s: seconds between the two looks at a thread that must agree.
    :cvar breaks: whether the migration has to be recovered, and does not go on by itself.
    """

    stuck: ClassVar[bool] = True
    apart_s: ClassVar[float] = 0.005
    breaks: ClassVar[bool] = True

    def __init__(self, plan: Plan, pair: Pair) -> None:
        self.plan = plan
        self.pair = pair

    async def happen(self, deadline: Deadline, stack: AsyncExitStack) -> str | None:
        """Make it happen, and prove it.

        :param stack: ends what goes on by itself.
        :return: the mechanism; None where nothing is done to the network.
        :raise TrialLost: it could not be proved.
        """
        raise NotImplementedError

    def restore(self) -> None:
        """Make the link whole again, where the migration cannot do without.

        :raise ToolFailed: a tool refused.
        """


class NoFailure(Failure):
    """Nothing goes wrong. Pages come as they are asked for, so vCPUs are stuck for moments only."""

    stuck = False
    breaks = False

    async def happen(self, deadline: Deadline, stack: AsyncExitStack) -> str | None:
        self.pair.both_in(Phase.POSTCOPY)
        return None


class Blackhole(Failure):
    """Silence: nothing passes and neither side has noticed."""

    async def happen(self, deadline: Deadline, stack: AsyncExitStack) -> str | None:
        outage.cut(self.pair.link.ends, self.plan.mechanism)
        await self.pair.traffic.prove_cut()
        self.pair.both_in(Phase.POSTCOPY)
        return self.plan.mechanism.name

    def restore(self) -> None:
        outage.restore(self.pair.link.ends, self.plan.mechanism)


class BlackholeReturn(Failure):
    """Silence one way: the source's packets arrive, the destination's requests do not.

    A few pages still come that nobody has asked for, until TCP at the source waits for what the
    destination acknowledges. A vCPU is stuck for good when it was for longer than one more takes.
    """

    apart_s = 0.5

    async def happen(self, deadline: Deadline, stack: AsyncExitStack) -> str | None:
        outage.cut([self.pair.link.destination], self.plan.mechanism)
        await self.pair.traffic.prove_cut(to_source_only=True)
        self.pair.both_in(Phase.POSTCOPY)
        return self.plan.mechanism.name

    def restore(self) -> None:
        outage.restore([self.pair.link.destination], self.plan.mechanism)


class LinkDown(Failure):
    """The carrier is gone; a TCP connection survives that as it does silence."""

    async def happen(self, deadline: Deadline, stack: AsyncExitStack) -> str | None:
        outage.take_down(self.pair.link)
        await self.pair.traffic.prove_cut()
        self.pair.both_in(Phase.POSTCOPY)
        return "link-down"

    def restore(self) -> None:
        outage.bring_up(self.pair.link)


class PausedByReset(Failure):
    """A reset connection, which both sides have noticed."""

    async def happen(self, deadline: Deadline, stack: AsyncExitStack) -> str | None:
        outage.reset(self.pair.link, PORT)
        await _both_reach_paused(self.pair, deadline)
        return "tcp-reset"


class PausedByTimeout(Failure):
    """Silence until TCP has given up, on both sides.

    TCP gives up what is not acknowledged. The source sends all the time, but the destination only
    when a vCPU touches another page: had it been answered just before all was cut, it would wait
    for ever. So the destination is cut off first, until it has asked in vain.
    """

    async def happen(self, deadline: Deadline, stack: AsyncExitStack) -> str | None:
        source, destination = self.pair.link.ends
        outage.shorten_timeouts(self.pair.link)
        outage.cut([destination], self.plan.mechanism)
        await deadline.poll(
            lambda: outage.unacknowledged(destination, PORT) or None,
            "A request that nobody acknowledges",
        )
        outage.cut([source], self.plan.mechanism)
        await _both_reach_paused(self.pair, deadline)
        return f"{self.plan.mechanism.name}, tcp-timeout"

    def restore(self) -> None:
        outage.restore(self.pair.link.ends, self.plan.mechanism)


class PausedByCommand(Failure):
    """An operator has told QEMU to give the connection up; nothing is wrong with the link."""

    async def happen(self, deadline: Deadline, stack: AsyncExitStack) -> str | None:
        await self.pair.migration.pause(deadline)
        return "migrate-pause"


class Degraded(Failure):
    """A slow link, and where the kernel can do that a late and lossy one."""

    breaks = False

    @property
    def _mechanism(self) -> Mechanism:
        assert self.plan.degradation is not None
        return self.plan.degradation

    async def happen(self, deadline: Deadline, stack: AsyncExitStack) -> str | None:
        outage.cut(self.pair.link.ends, self._mechanism)
        await self.pair.traffic.prove_slow()
        self.pair.both_in(Phase.POSTCOPY)
        return self._mechanism.name

    def restore(self) -> None:
        outage.restore(self.pair.link.ends, self._mechanism)


class Flapping(Failure):
    """Short outages that go on to the end; the migration finishes all the same."""

    breaks = False

    async def happen(self, deadline: Deadline, stack: AsyncExitStack) -> str | None:
        stack.enter_context(outage.flapping(self.plan.run, self.pair.link, self.plan.mechanism))
        while True:
            try:
                await self.pair.traffic.prove_cut()
            except OutageNotProven:
                if deadline.passed:
                    raise
            else:
                break
        self.pair.both_in(Phase.POSTCOPY)
        return f"{self.plan.mechanism.name}, flapping"


async def _both_reach_paused(pair: Pair, deadline: Deadline) -> None:
    for side in pair.migration.sides:
        await side.reaches(Phase.PAUSED, deadline)


FAILURES: dict[ScenarioName, type[Failure]] = {
    ScenarioName.POSTCOPY: NoFailure,
    ScenarioName.BLACKHOLE: Blackhole,
    ScenarioName.BLACKHOLE_RETURN: BlackholeReturn,
    ScenarioName.LINK_DOWN: LinkDown,
    ScenarioName.PAUSED: PausedByReset,
    ScenarioName.PAUSED_TIMEOUT: PausedByTimeout,
    ScenarioName.PAUSED_COMMAND: PausedByCommand,
    ScenarioName.DEGRADED: Degraded,
    ScenarioName.FLAPPING: Flapping,
}
"""Of every scenario that has a migration."""


async def strand(
    scene: Scene, timeline: Timeline, deadline: Deadline, stack: AsyncExitStack
) -> tuple[Failure, str | None]:
    """Migrate into postcopy, and let the scenario's failure happen; it, and its mechanism.

    :raise TrialLost: it could not be staged before the deadline.
    """
    assert scene.pair is not None
    pair = scene.pair
    failure = FAILURES[scene.case.scenario](scene.plan, pair)

    async def fail() -> str | None:
        await pair.traffic.prove_open()
        return await failure.happen(deadline, stack)

    with timeline.stage("postcopy"):
        address = pair.link.destination.address
        vcpus = scene.case.shape.vcpus
        await scene.during(pair.migration.into_postcopy(address, vcpus, deadline))
    with timeline.stage("outage"):
        return failure, await scene.during(fail())
