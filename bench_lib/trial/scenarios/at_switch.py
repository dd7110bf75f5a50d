# SPDX-License-Identifier: BSD-3-Clause
"""Scenarios in which a postcopy migration fails at the switch, before the guest runs again.

The failure comes before any page was requested. So the pages that KVM itself touches first are
missing too, such as those that it shares with the guest.
"""

from __future__ import annotations

import signal
from abc import abstractmethod

from bench_lib.errors import GuestDied
from bench_lib.migration import PORT, Phase
from bench_lib.network import tcp
from bench_lib.record import ScenarioName
from bench_lib.trial import proof
from bench_lib.trial.scenarios.description import SOON_S
from bench_lib.trial.scenarios.migration import MigrationScenario
from bench_lib.trial.scene import MigrationScene


class _AtSwitch(MigrationScenario):
    """The migration has switched to postcopy, and no page can have arrived after the switch.

    First the destination is stopped while the source sends the guest's state, which waits in the
    socket. Then the source is stopped, and the destination continues. So the missing pages do not
    depend on the speed of either side.
    """

    async def _cross(self, scene: MigrationScene) -> None:
        await scene.migration.start(scene.link.destination.address, self.staging.deadline)

    async def _fail(self, scene: MigrationScene) -> str | None:
        deadline = self.staging.deadline
        source, guest = scene.source.child, scene.guest.child
        # If unread data were left when the destination is stopped, it could fill the connection's
        # buffers, and the source would never reach the switch.
        await deadline.poll(
            lambda: not tcp.unread(scene.link, PORT) or None, "An empty receive queue"
        )
        guest.signal(signal.SIGSTOP)
        try:
            await scene.migration.send_state(deadline)
            # QEMU's main loop does not report whether the last data has left QEMU's buffers.
            await proof.quiet(source.pid, deadline)
            source.signal(signal.SIGSTOP)
            self._stall.callback(source.signal, signal.SIGCONT)
        finally:
            guest.signal(signal.SIGCONT)
        # Wait for an event, because commands may not be answered: a vCPU that hangs while QEMU
        # loads it blocks QEMU's main loop.
        await scene.migration.destination.reaches(Phase.POSTCOPY, deadline)
        return await self._fail_now(scene)

    @abstractmethod
    async def _fail_now(self, scene: MigrationScene) -> str:
        """Make the failure happen while the source is stopped, and return the mechanism."""


class FrozenSource(_AtSwitch):
    """The source's QEMU is stopped, as if its host froze. The release continues it."""

    name = ScenarioName.FROZEN_SOURCE
    breaks = False

    async def _fail_now(self, scene: MigrationScene) -> str:
        return "sigstop"


class DeadSource(_AtSwitch):
    """The source's QEMU is killed, and all missing pages are lost with it.

    It is killed after the vCPUs got stuck. If the source died before the destination has started
    its vCPUs, the destination would exit with "loadvm failed" (postcopy_ram_listen_thread() in QEMU
    7.2).
    """

    name = ScenarioName.DEAD_SOURCE
    source_may_end = True

    async def _fail_now(self, scene: MigrationScene) -> str:
        deadline = self.staging.deadline
        halts = self.staging.workload.halts
        await proof.stuck(scene.guest.child.pid, scene.tids, None, deadline, SOON_S, halts=halts)
        scene.source.child.signal(signal.SIGKILL)
        if await scene.source.child.reaped(deadline) is None:
            raise GuestDied(f"{scene.source.name} was killed, but did not end in time.")
        return "sigkill"


class CutAtSwitch(_AtSwitch):
    """Every packet is dropped, and neither side notices."""

    name = ScenarioName.CUT_AT_SWITCH

    async def _fail_now(self, scene: MigrationScene) -> str:
        deadline = self.staging.deadline
        # Since QEMU 10.2 the source resumes the guest if the connection fails before the
        # destination has reported that it has loaded the guest's state.
        await deadline.poll(
            lambda: not tcp.unacknowledged(scene.link.destination, PORT) or None,
            "The acknowledgement of the data from the destination",
        )
        self._cut(scene.link.ends)
        scene.source.child.signal(signal.SIGCONT)
        await scene.migration.source.reaches(Phase.POSTCOPY, deadline)
        await scene.traffic.prove_cut()
        return self._mechanism.name
