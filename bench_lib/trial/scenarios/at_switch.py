# SPDX-License-Identifier: BSD-3-Clause
"""What goes wrong with a postcopy migration at the switch, before the guest runs again.

What fails then fails before any page was asked for: so what KVM itself touches first is missing as
well, such as the pages that it shares with the guest.
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
    """The guest is switched over, and not one page can have followed it.

    The destination stands still while the source sends the guest's state, which waits in the
    socket; then the source stands still, and the destination goes on. So what is missing does not
    depend on how fast anything is.
    """

    async def _cross(self, scene: MigrationScene) -> None:
        await scene.migration.begin(scene.link.destination.address, self.staging.deadline)

    async def _fail(self, scene: MigrationScene) -> str | None:
        deadline = self.staging.deadline
        source, guest = scene.source.child, scene.guest.child
        # A destination that is behind would stop reading with the connection's buffers full, and
        # the source would never get to the switch.
        await deadline.poll(
            lambda: not tcp.unread(scene.link, PORT) or None, "The end of what is to be read"
        )
        guest.signal(signal.SIGSTOP)
        try:
            await scene.migration.send_state(deadline)
            # What QEMU's main loop does not tell: whether the last of it has left a buffer.
            await proof.quiet(source.pid, deadline)
            source.signal(signal.SIGSTOP)
            self._stall.callback(source.signal, signal.SIGCONT)
        finally:
            guest.signal(signal.SIGCONT)
        # Only by its events: a vCPU that hangs while QEMU loads it keeps QEMU's main loop, which
        # then answers nothing.
        await scene.migration.destination.reaches(Phase.POSTCOPY, deadline)
        return await self._fail_now(scene)

    @abstractmethod
    async def _fail_now(self, scene: MigrationScene) -> str:
        """Make it happen, with the source standing still; the mechanism."""


class FrozenSource(_AtSwitch):
    """The source's QEMU stands still, as when its host freezes. It goes on at the release."""

    name = ScenarioName.FROZEN_SOURCE
    breaks = False

    async def _fail_now(self, scene: MigrationScene) -> str:
        return "sigstop"


class DeadSource(_AtSwitch):
    """The source's QEMU is killed, and with it every page that the guest is missing.

    The vCPUs are stuck by then: a destination that has not yet told its vCPUs to run when the
    source dies exits with "loadvm failed" (QEMU 7.2, postcopy_ram_listen_thread).
    """

    name = ScenarioName.DEAD_SOURCE
    source_may_end = True

    async def _fail_now(self, scene: MigrationScene) -> str:
        deadline = self.staging.deadline
        await proof.stuck(scene.guest.child.pid, scene.tids, None, deadline, SOON_S)
        scene.source.child.signal(signal.SIGKILL)
        if await scene.source.child.reaped(deadline) is None:
            raise GuestDied(f"{scene.source.name} was killed, but has not ended.")
        return "sigkill"


class CutAtSwitch(_AtSwitch):
    """Every packet is dropped, and neither side has noticed."""

    name = ScenarioName.CUT_AT_SWITCH

    async def _fail_now(self, scene: MigrationScene) -> str:
        deadline = self.staging.deadline
        # From QEMU 10.2 on the source takes the guest back if the connection fails before it hears
        # that the destination has loaded the guest's state.
        await deadline.poll(
            lambda: not tcp.unacknowledged(scene.link.destination, PORT) or None,
            "The acknowledgement of what the destination has sent",
        )
        self._cut(scene.link.ends)
        scene.source.child.signal(signal.SIGCONT)
        await scene.migration.source.reaches(Phase.POSTCOPY, deadline)
        await scene.traffic.prove_cut()
        return self._mechanism.name
