# SPDX-License-Identifier: BSD-3-Clause
"""Several labs at once, with records as if there had been one after the other."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from bench_lib.host import setup
from bench_lib.lab import vm
from bench_lib.lab.vm import Facts
from bench_lib.record import Record
from bench_lib.settings import Settings

Keep = Callable[[Record], None]

OnBoot = Callable[[Facts], None]

Work = Callable[[Keep, OnBoot], Coroutine[Any, Any, None]]
"""Boots a lab and makes trials in it. Called with what is to be called with each record, and with
what is to be called each time a lab is up."""


def jobs(settings: Settings) -> int:
    """How many labs are to run at once: as many as were asked for, or as this host has room for.

    One where KVM runs them, because they would be in each other's latencies. Emulated labs do not
    measure latencies, so there are as many as this host has CPUs and memory for.

    :raise LabUnavailable: this host does not have the memory for as many as were asked for. Each
        lab looks for itself, but those that start together find the same memory free.
    """
    if settings.jobs is not None:
        vm.check_host(settings, settings.jobs)
        return settings.jobs
    if vm.accelerator() != "tcg":
        return 1
    free_mib = (setup.memory_mib("MemAvailable") or 0) - vm.SPARE_MIB
    cpus = len(os.sched_getaffinity(0))
    return max(1, min(cpus // vm.CPUS, free_mib // settings.lab_memory_mib))


async def run(
    works: Sequence[Work],
    at_once: int,
    on_record: Callable[[int, Record], None],
    on_boot: OnBoot,
    on_done: Callable[[int], None] = lambda index: None,
) -> None:
    """Do several works, each in a lab of its own; what they give comes in their order.

    Boots and records of a work that is ahead are held back until those before it are done, so that
    each record follows the boot that it was made in. The first error is that of the first work that
    fails, in their order; those after it are cancelled then, and their records dropped, as if they
    had not begun.

    :param at_once: how many are done at the same time.
    :param on_record: called with the number of the work, from 0 on, and each record.
    :param on_boot: called each time a lab is up.
    :param on_done: called with the number of a work after its last record.
    """
    free = asyncio.Semaphore(at_once)
    held: list[list[Callable[[], None]]] = [[] for _ in works]
    turn = 0

    def came(index: int, tell: Callable[[], None]) -> None:
        if index == turn:
            tell()
        else:
            held[index].append(tell)

    async def one(index: int) -> None:
        def keep(made: Record) -> None:
            came(index, partial(on_record, index, made))

        def up(facts: Facts) -> None:
            came(index, partial(on_boot, facts))

        async with free:
            await works[index](keep, up)

    tasks = [asyncio.create_task(one(index)) for index in range(len(works))]
    try:
        for turn, task in enumerate(tasks):  # came() reads it
            for tell in held[turn]:
                tell()
            await task
            on_done(turn)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
