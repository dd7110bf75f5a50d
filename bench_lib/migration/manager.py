# SPDX-License-Identifier: BSD-3-Clause
"""Managers: who starts guests and migrates them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Protocol

from bench_lib.deadline import Deadline
from bench_lib.guest import qemu
from bench_lib.guest.qemu import Guest, GuestConfig
from bench_lib.migration.postcopy import Migration
from bench_lib.ownership import Run


class Manager(Protocol):
    """Who starts guests and migrates them."""

    async def start(self, config: GuestConfig, deadline: Deadline, stack: AsyncExitStack) -> Guest:
        """Start a guest and connect to it.

        :param stack: ends it.
        :raise GuestDied: it ended at once; the last words of QEMU are in the message.
        """

    def migrate(self, source: Guest, destination: Guest, stack: AsyncExitStack) -> Migration:
        """Prepare a migration from a running guest to one that waits for it.

        :param stack: ends the following of events.
        """


class QemuManager:
    """QEMU alone, told by QMP what to do."""

    def __init__(self, run: Run) -> None:
        """:param run: which the guests belong to."""
        self._run = run

    async def start(self, config: GuestConfig, deadline: Deadline, stack: AsyncExitStack) -> Guest:
        return await stack.enter_async_context(qemu.started(self._run, config, deadline))

    def migrate(self, source: Guest, destination: Guest, stack: AsyncExitStack) -> Migration:
        return Migration.between(source, destination, stack)
