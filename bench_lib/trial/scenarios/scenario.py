# SPDX-License-Identifier: BSD-3-Clause
"""What every scenario is."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

from bench_lib.deadline import together
from bench_lib.guest.qemu import Guest, GuestConfig
from bench_lib.record import Recovery, ScenarioName
from bench_lib.trial.requests.description import REQUESTS
from bench_lib.trial.requests.request import Request
from bench_lib.trial.scene import Scene, Staging

SceneT = TypeVar("SceneT", bound=Scene)


class Scenario(ABC, Generic[SceneT]):
    """What the guest of one trial goes through.

    A trial calls `stage`, then `strand`, makes its request, and calls `recover` or `release`; it
    calls `release` in any case before anything is killed.

    :cvar name: as records and the command line have it.
    """

    name: ClassVar[ScenarioName]

    def __init__(self, staging: Staging) -> None:
        self.staging = staging

    @abstractmethod
    async def stage(self) -> SceneT:
        """Start fresh guests, and wait until the one that runs has shown that it does.

        :raise TrialLost: they were not up before the deadline.
        """

    async def strand(self, scene: SceneT) -> str | None:
        """Make happen what the scenario is about, and prove it.

        :return: the mechanism; None where nothing is done to network or storage.
        :raise TrialLost: it could not be staged or proved before the deadline.
        """
        return None

    async def release(self, scene: SceneT) -> None:
        """End the stall, so that whatever waits can go on. Called once more, it does nothing.

        :raise ToolFailed: a tool refused.
        """

    async def recover(
        self, scene: SceneT, request: Request, limit_s: float, *, answered: bool
    ) -> Recovery:
        """Recover the guest after the request, and let it check its memory.

        :param answered: whether the request was; if not, its answer is waited for.
        :param limit_s: seconds until each part has to be done.
        :raise TrialLost: the guest could not be recovered.
        """
        raise NotImplementedError(f"{self.name} has nothing to recover")

    async def _started(self, *specs: GuestConfig) -> list[Guest]:
        """Start guests side by side."""
        staging = self.staging
        guests = await together(
            *(staging.manager.start(spec, staging.deadline, staging.stack) for spec in specs)
        )
        # All die at once at the end, instead of one after the other is reaped.
        for guest in guests:
            staging.stack.callback(guest.child.signal, signal.SIGKILL)
        return guests

    def _spec(self) -> GuestConfig:
        """The guest that the request will go to."""
        staging = self.staging
        request = REQUESTS[staging.case.request]
        return GuestConfig(
            staging.plan.run.name(staging.seq, "destination"),
            staging.plan.qemu,
            staging.workload,
            staging.case.shape,
            terminal=request.terminal,
            gdbstub=request.gdbstub,
        )
