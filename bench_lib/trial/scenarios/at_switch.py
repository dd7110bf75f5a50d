"""What goes wrong with a postcopy migration at the switch, before the guest runs again.

The destination reports `postcopy-active` when it has received the guest's device state and before
it lets the vCPUs run. What fails at that moment fails before any page was asked for: so what KVM
itself touches first is missing as well, such as the pages that it shares with the guest.
"""

from __future__ import annotations

import signal
from abc import abstractmethod

from bench_lib.errors import GuestDied
from bench_lib.migration import Phase
from bench_lib.record import ScenarioName
from bench_lib.trial import proof
from bench_lib.trial.scenarios.description import SOON_S
from bench_lib.trial.scenarios.migration import MigrationScenario
from bench_lib.trial.scene import MigrationScene


class _AtSwitch(MigrationScenario):
    """The guest is switched over and something fails at once."""

    async def _cross(self, scene: MigrationScene) -> None:
        await scene.migration.begin(scene.link.destination.address, self.staging.deadline)

    async def _fail(self, scene: MigrationScene) -> str | None:
        deadline = self.staging.deadline
        await scene.migration.start_postcopy(deadline)
        # Only the destination is asked, and only by its events: a vCPU that hangs while QEMU loads
        # it keeps QEMU's main loop, which then answers nothing.
        await scene.migration.destination.reaches(Phase.POSTCOPY, deadline)
        return await self._fail_now(scene)

    @abstractmethod
    async def _fail_now(self, scene: MigrationScene) -> str:
        """Make it happen; the mechanism."""


class FrozenSource(_AtSwitch):
    """The source's QEMU stands still, as when its host freezes. It goes on at the release."""

    name = ScenarioName.FROZEN_SOURCE
    breaks = False

    async def _fail_now(self, scene: MigrationScene) -> str:
        scene.source.child.signal(signal.SIGSTOP)
        self._stall.callback(scene.source.child.signal, signal.SIGCONT)
        return "sigstop"


class DeadSource(_AtSwitch):
    """The source's QEMU is killed, and with it every page that the guest is missing.

    It stands still until the vCPUs are stuck: a destination that has not yet told its vCPUs to run
    when the source dies exits with "loadvm failed" (QEMU 7.2, postcopy_ram_listen_thread).
    """

    name = ScenarioName.DEAD_SOURCE
    source_may_end = True

    async def _fail_now(self, scene: MigrationScene) -> str:
        deadline = self.staging.deadline
        scene.source.child.signal(signal.SIGSTOP)
        await proof.stuck(scene.guest.child.pid, scene.tids, None, deadline, SOON_S)
        scene.source.child.signal(signal.SIGKILL)
        if await scene.source.child.reaped(deadline) is None:
            raise GuestDied(f"{scene.source.name} was killed, but has not ended.")
        return "sigkill"


class CutAtSwitch(_AtSwitch):
    """Every packet is dropped, and neither side has noticed.

    The source stands still while the link is cut, because two runs of tc take longer than a page.
    """

    name = ScenarioName.CUT_AT_SWITCH

    async def _fail_now(self, scene: MigrationScene) -> str:
        source = scene.source.child
        source.signal(signal.SIGSTOP)
        try:
            self._cut(scene.link.ends)
        finally:
            source.signal(signal.SIGCONT)
        await scene.traffic.prove_cut()
        return self._mechanism.name
