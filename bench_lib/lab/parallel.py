# SPDX-License-Identifier: BSD-3-Clause
"""Several labs at once, with records as if there had been one after the other."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from bench_lib.host import setup
from bench_lib.lab import machine
from bench_lib.record import Record
from bench_lib.settings import Settings

Keep = Callable[[Record], None]

Work = Callable[[Keep], Coroutine[Any, Any, None]]
"""Boots a lab and makes trials in it. Called with what is to be called with each record."""


def jobs(settings: Settings) -> int:
    """How many labs are to run at once: as many as were asked for, or as this host has room for.

    One where KVM runs them, because they would be in each other's latencies. Emulated labs do not
    measure latencies, so there are as many as this host has CPUs and memory for.
    """
    if settings.jobs is not None:
        return settings.jobs
    if machine.accelerator() != "tcg":
        return 1
    free_mib = (setup.memory_mib("MemAvailable") or 0) - machine.SPARE_MIB
    cpus = len(os.sched_getaffinity(0))
    return max(1, min(cpus // machine.CPUS, free_mib // settings.lab_memory_mib))


async def run(
    works: Sequence[Work],
    at_once: int,
    on_record: Callable[[int, Record], None],
    on_done: Callable[[int], None] = lambda index: None,
) -> None:
    """Do several works, each in a lab of its own; what they give comes in their order.

    Records of a work that is ahead are held back until those before it are done. The first error
    is that of the first work that fails, in their order; those after it are cancelled then, and
    their records dropped, as if they had not begun.

    :param at_once: how many are done at the same time.
    :param on_record: called with the number of the work, from 0 on, and each record.
    :param on_done: called with the number of a work after its last record.
    """
    free = asyncio.Semaphore(at_once)
    held: list[list[Record]] = [[] for _ in works]
    turn = 0

    def came(index: int, made: Record) -> None:
        if index == turn:
            on_record(index, made)
        else:
            held[index].append(made)

    async def one(index: int) -> None:
        async with free:
            await works[index](partial(came, index))

    tasks = [asyncio.create_task(one(index)) for index in range(len(works))]
    try:
        for turn, task in enumerate(tasks):  # came() reads it
            for made in held[turn]:
                on_record(turn, made)
            await task
            on_done(turn)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
