# SPDX-License-Identifier: BSD-3-Clause
"""Managers, which start guests and migrate them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Protocol

from bench_lib.deadline import Deadline
from bench_lib.guest import qemu
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

    def migrate(self, source: Guest, destination: Guest, stack: AsyncExitStack) -> Migration:
        """Prepare a migration from a running guest to a guest that waits for a migration.

        :param stack: the exit stack that stops following QEMU's events.
        """


class QemuManager:
    """Runs QEMU directly, and controls it through QMP."""

    def __init__(self, run: Run) -> None:
        """Manage the guests of a run."""
        self._run = run

    async def start(self, config: GuestConfig, deadline: Deadline, stack: AsyncExitStack) -> Guest:
        return await stack.enter_async_context(qemu.started(self._run, config, deadline))

    def migrate(self, source: Guest, destination: Guest, stack: AsyncExitStack) -> Migration:
        return Migration.between(source, destination, stack)
