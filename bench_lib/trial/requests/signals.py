# SPDX-License-Identifier: BSD-3-Clause
"""QEMU's kick alone: the signal with which QEMU makes a vCPU leave KVM_RUN."""

from __future__ import annotations

import signal
import time

from bench_lib import threads
from bench_lib.deadline import Deadline
from bench_lib.errors import GuestDied
from bench_lib.trial.requests.request import Reply, Request
from bench_lib.trial.requests.waiting import polled


class Sigusr1(Request):
    """SIGUSR1 to each vCPU thread, until no thread has it pending: each has left its fault.

    QEMU relies on this signal alone to call vCPUs out of the kernel. Without QEMU's request to
    exit, each vCPU enters the guest again and gets stuck in the next fault. From outside, the
    answer can be seen only by reading SigPnd in /proc as often as possible. The longest time
    between two looks is the resolution.
    """

    NUMBER = signal.SIGUSR1

    _sent_ns = 0

    async def send(self) -> None:
        self._sent_ns = time.monotonic_ns()
        pid = self.guest.child.pid
        try:
            for tid in self.tids:
                threads.kick(pid, tid, self.NUMBER)
        except ProcessLookupError:
            raise GuestDied(f"A vCPU thread of process {pid} has ended.") from None

    async def answer(self, deadline: Deadline) -> Reply | None:
        waiting = list(self.tids)

        def all_have_taken_it() -> bool:
            nonlocal waiting
            waiting = [tid for tid in waiting if self._pending(tid)]
            return not waiting

        return await polled(all_have_taken_it, self._sent_ns, deadline)

    def _pending(self, tid: int) -> bool:
        pid = self.guest.child.pid
        try:
            return threads.pending(pid, tid, self.NUMBER)
        except ProcessLookupError:
            raise GuestDied(f"A vCPU thread of process {pid} has ended.") from None
