# SPDX-License-Identifier: BSD-3-Clause
"""The interface of a scenario."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

from bench_lib.guest.qemu import Guest, GuestConfig
from bench_lib.record import Recovery, ScenarioName
from bench_lib.trial.requests.description import REQUESTS
from bench_lib.trial.requests.request import Request
from bench_lib.trial.scene import Scene, Staging

SceneT = TypeVar("SceneT", bound=Scene)


class Scenario(ABC, Generic[SceneT]):
    """What the guest of one trial goes through.

    A trial calls `stage` and `strand`, makes its request, and calls `recover` or `release`. It
    always calls `release` before it kills anything.

    :cvar name: the name in records and on the command line.
    """

    name: ClassVar[ScenarioName]

    def __init__(self, staging: Staging) -> None:
        self.staging = staging

    @abstractmethod
    async def stage(self) -> SceneT:
        """Start fresh guests, and wait until the workload is up.

        :raise TrialLost: the workload was not up before the deadline.
        """

    async def strand(self, scene: SceneT) -> str | None:
        """Make the stall happen, and prove it.

        :return: the mechanism; None if nothing is done to network or storage.
        :raise TrialLost: the stall could not be made or proved before the deadline.
        """
        return None

    async def release(self, scene: SceneT) -> None:
        """End the stall, so that everything that waits for it can continue. A second call does
        nothing.

        :raise ToolFailed: a tool failed.
        """

    async def recover(
        self, scene: SceneT, request: Request, limit_s: float, *, answered: bool
    ) -> Recovery:
        """Recover the guest after the request, and let it check its memory.

        :param limit_s: how many seconds each step may take.
        :param answered: whether the request has been answered. If not, the answer is waited for.
        :raise TrialLost: the guest could not be recovered.
        """
        raise NotImplementedError(f"a guest in {self.name} cannot be recovered")

    def _kill_at_the_end(self, *guests: Guest) -> None:
        """Kill all guests first at the end.

        Otherwise each one would be reaped before the next one is killed.
        """
        for guest in guests:
            self.staging.stack.callback(guest.child.signal, signal.SIGKILL)

    def _spec(self) -> GuestConfig:
        """Return the configuration of the guest that the request is made to."""
        staging = self.staging
        case = staging.case
        requests = [REQUESTS[each] for each in (case.request, case.then) if each is not None]
        return GuestConfig(
            staging.plan.run.name(staging.seq, "destination"),
            staging.plan.qemu,
            staging.workload,
            case.shape,
            terminal=any(each.terminal for each in requests),
            gdbstub=any(each.gdbstub for each in requests),
            core=any(each.core for each in requests),
            memory_slot=any(each.memory_slot for each in requests),
            state=staging.state,
        )
