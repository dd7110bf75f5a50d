# SPDX-License-Identifier: BSD-3-Clause
"""Managers, which start guests and migrate them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Protocol

from bench_lib.deadline import Deadline, together
from bench_lib.guest import qemu, state
from bench_lib.guest.qemu import Guest, GuestConfig
from bench_lib.migration.postcopy import Migration
from bench_lib.ownership import Run


class Manager(Protocol):
    """Starts guests and migrates them."""

    async def start(self, config: GuestConfig, deadline: Deadline, stack: AsyncExitStack) -> Guest:
        """Start a guest and connect to it.

        :param stack: the exit stack that ends the guest.
        :raise GuestDied: QEMU ended at once; the message has its last lines of output.
        """

    async def start_pair(
        self,
        source: GuestConfig,
        destination: GuestConfig,
        address: str,
        deadline: Deadline,
        stack: AsyncExitStack,
    ) -> Migration:
        """Start a guest, and another one that waits for its migration.

        :param address: where the destination listens.
        :param stack: the exit stack that ends both guests, and stops following QEMU's events.
        :raise GuestDied: a QEMU ended at once; the message has its last lines of output.
        """


class QemuManager:
    """Runs QEMU directly, and controls it through QMP."""

    def __init__(self, run: Run) -> None:
        """Manage the guests of a run."""
        self._run = run

    async def start(self, config: GuestConfig, deadline: Deadline, stack: AsyncExitStack) -> Guest:
        guest = await stack.enter_async_context(qemu.started(self._run, config, deadline))
        if config.state is not None:
            address = self._run.folder / f"{config.name}.socket"
            restoring = state.restore(guest, config.state, address, deadline)
            await guest.during(restoring)
            guest.restored = True
        return guest

    async def start_pair(
        self,
        source: GuestConfig,
        destination: GuestConfig,
        address: str,
        deadline: Deadline,
        stack: AsyncExitStack,
    ) -> Migration:
        running, waiting = await together(
            *(self.start(config, deadline, stack) for config in (source, destination))
        )
        migration = Migration.between(running, waiting, stack)
        await migration.during(migration.configure(address, source.shape, deadline))
        return migration
