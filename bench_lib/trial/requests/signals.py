# SPDX-License-Identifier: BSD-3-Clause
"""QEMU's kick alone: the signal with which QEMU makes a vCPU leave KVM_RUN."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from bench_lib import threads
from bench_lib.deadline import Deadline
from bench_lib.errors import GuestDied
from bench_lib.process import ATTENTIVE_S
from bench_lib.trial.requests.request import Reply, Request

PATIENT_S = 0.001
"""Seconds between two looks after the first `ATTENTIVE_S` have passed."""


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
        resolution_ns = 0
        earlier_ns = self._sent_ns
        attentive = Deadline.after(ATTENTIVE_S)
        while True:
            waiting = [tid for tid in waiting if self._pending(tid)]
            now_ns = time.monotonic_ns()
            resolution_ns = max(resolution_ns, now_ns - earlier_ns)
            if not waiting:
                return Reply(self._sent_ns, now_ns, resolution_ns=resolution_ns)
            if deadline.passed:
                return None
            earlier_ns = now_ns
            # A vCPU thread may be waiting for this very CPU.
            os.sched_yield()
            if attentive.passed:
                await asyncio.sleep(PATIENT_S)

    def _pending(self, tid: int) -> bool:
        pid = self.guest.child.pid
        try:
            return threads.pending(pid, tid, self.NUMBER)
        except ProcessLookupError:
            raise GuestDied(f"A vCPU thread of process {pid} has ended.") from None
