# SPDX-License-Identifier: BSD-3-Clause
"""Waiting for an answer without adding much to the latency that is measured."""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections.abc import Callable

from bench_lib.deadline import Deadline
from bench_lib.process import ATTENTIVE_S
from bench_lib.trial.requests.request import Reply

PATIENT_S = 0.001
"""Seconds between two looks after the first `ATTENTIVE_S` have passed."""


async def readable(fd: int, deadline: Deadline) -> bool:
    """Wait until a descriptor is readable.

    :return: whether it is; False if the deadline passed.
    """
    # Block first: iterations of the event loop would add to the latency that is measured.
    if select.select([fd], [], [], min(ATTENTIVE_S, deadline.remaining_s))[0]:
        return True
    loop = asyncio.get_running_loop()
    found = asyncio.Event()
    loop.add_reader(fd, found.set)
    try:
        async with asyncio.timeout(deadline.remaining_s):
            await found.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return True


async def polled(answered: Callable[[], bool], sent_ns: int, deadline: Deadline) -> Reply | None:
    """Look as often as possible whether a request is answered, if the kernel has no event for it.

    :param answered: looks once.
    :param sent_ns: the time at which the request left, in nanoseconds of the monotonic clock.
    :return: the answer, whose resolution is the longest time between two looks; None if the
        deadline passed.
    """
    resolution_ns = 0
    earlier_ns = sent_ns
    attentive = Deadline.after(ATTENTIVE_S)
    while True:
        found = answered()
        now_ns = time.monotonic_ns()
        resolution_ns = max(resolution_ns, now_ns - earlier_ns)
        if found:
            return Reply(sent_ns, now_ns, resolution_ns=resolution_ns)
        if deadline.passed:
            return None
        earlier_ns = now_ns
        # A thread that has to act may be waiting for this very CPU.
        os.sched_yield()
        if attentive.passed:
            await asyncio.sleep(PATIENT_S)
