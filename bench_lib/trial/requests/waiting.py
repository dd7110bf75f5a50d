# SPDX-License-Identifier: BSD-3-Clause
"""Waiting for a descriptor without adding much to the latency that is measured."""

from __future__ import annotations

import asyncio
import select

from bench_lib.deadline import Deadline
from bench_lib.process import ATTENTIVE_S


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
