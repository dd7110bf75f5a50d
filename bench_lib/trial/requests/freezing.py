# SPDX-License-Identifier: BSD-3-Clause
"""Freezing QEMU with a cgroup, as `docker pause` and `systemctl freeze` do."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from bench_lib import process
from bench_lib.deadline import Deadline
from bench_lib.errors import FreezerLeft, GuestDied
from bench_lib.host import freezer
from bench_lib.host.freezer import Freezer
from bench_lib.threads import ThreadState
from bench_lib.threads.stack import functions, in_futex, polls
from bench_lib.trial.requests.request import Reply, Request
from bench_lib.trial.requests.waiting import polled, readable

FROZEN = frozenset({"get_signal", "do_freezer_trap", "__refrigerator"})
"""The functions of the kernel in which frozen threads sleep: in version 2 the first two (compilers
may inline the second one into the first), in version 1 the last."""

SETTLED_S = 0.02
"""Seconds to wait after QEMU has entered the cgroup. The kernel reports at most one change of
cgroup.events in 10 ms (CGROUP_FILE_NOTIFY_MIN_INTV), and that QEMU has entered is one."""


class CgroupFreeze(Request):
    """QEMU is in a cgroup, which is frozen. It answers when the kernel reports QEMU frozen.

    An answer counts only if QEMU is still in the cgroup then.

    Version 2 has an event for that. Version 1 has none, so its state is read as often as possible,
    and the longest time between two looks is the resolution.
    """

    _freezer: Freezer
    _sent_ns = 0

    async def prepare(self, deadline: Deadline, stack: AsyncExitStack) -> None:
        # This ends before QEMU is killed: in version 1 a frozen process does not die.
        hierarchy, self._freezer = stack.enter_context(freezer.made(self.guest.name))
        self.tool = str(hierarchy)
        try:
            self._freezer.add(self.guest.child.pid)
        except ProcessLookupError:
            raise GuestDied(f"Process {self.guest.child.pid} has ended.") from None
        await asyncio.sleep(SETTLED_S)
        assert not self._freezer.frozen  # reads the report, so that only a later change is an event

    async def send(self) -> None:
        self._sent_ns = time.monotonic_ns()
        self._freezer.freeze()

    async def answer(self, deadline: Deadline) -> Reply | None:
        reply = await self._reply(deadline)
        if reply is not None:
            self._check_inside()
        return reply

    async def _reply(self, deadline: Deadline) -> Reply | None:
        if self._freezer.readable is None:
            return await polled(lambda: self._freezer.frozen, self._sent_ns, deadline)
        while not self._freezer.frozen:
            if not await readable(self._freezer.readable, deadline):
                return None
        return Reply(self._sent_ns, time.monotonic_ns())

    def _check_inside(self) -> None:
        """Check that the frozen cgroup is not one that QEMU has left.

        :raise GuestDied: QEMU has ended.
        :raise FreezerLeft: QEMU has been moved to another cgroup.
        """
        pid = self.guest.child.pid
        if self._freezer.has(pid):
            return
        if not process.lives(pid):
            raise GuestDied(f"Process {pid} has ended.")
        raise FreezerLeft(
            "QEMU was moved out of the cgroup that should freeze it, so nothing was measured; stop "
            "what moves it."
        )

    def called(self, state: ThreadState) -> bool:
        """Every thread is called that is not frozen, though no signal is pending for it.

        Since Linux 6.1 (f5d39b020809), version 1 freezes a thread where it sleeps, if it sleeps in
        one of a few system calls, and /proc shows such a thread in state D.
        """
        frames = functions(state.stack)
        in_place = in_futex(state.stack) or polls(state.stack) or "hrtimer_nanosleep" in frames
        return FROZEN.isdisjoint(frames[:1]) and not (state.state == "D" and in_place)

    def withdraw(self) -> bool:
        """Thaw QEMU, most of whose threads are frozen while one cannot be."""
        self._freezer.thaw()
        return True

    async def undo(self, deadline: Deadline) -> None:
        self._freezer.thaw()
