# SPDX-License-Identifier: BSD-3-Clause
"""Several labs at once, whose records arrive in the order of one lab after the other."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from bench_lib.host import setup
from bench_lib.lab import qemu
from bench_lib.lab.vm import Facts
from bench_lib.record import Record
from bench_lib.settings import Settings

Keep = Callable[[Record], None]
"""A function that takes each record."""

OnBoot = Callable[[Facts], None]
"""A function that takes the facts of each lab that is up."""

Job = Callable[[Keep, OnBoot], Coroutine[Any, Any, None]]
"""A function that boots a lab and makes trials in it."""


def jobs(settings: Settings) -> int:
    """How many labs run at once: as many as the settings ask for, or as fit into this host.

    By default one lab runs at a time under KVM, because labs would disturb each other's latencies.
    Emulated labs do not measure latencies, so as many run as this host has CPUs and memory for.

    :raise LabUnavailable: this host does not have the memory for the labs that the settings ask
        for. Each lab checks the memory again when it starts, but labs that start together all see
        the same memory as free.
    """
    if settings.jobs is not None:
        qemu.check_memory(settings, settings.jobs)
        return settings.jobs
    if qemu.accelerator() != "tcg":
        return 1
    free_mib = (setup.memory_mib("MemAvailable") or 0) - qemu.SPARE_MIB
    cpus = len(os.sched_getaffinity(0))
    return max(1, min(cpus // qemu.CPUS, free_mib // settings.lab_memory_mib))


async def run(
    queue: Sequence[Job],
    at_once: int,
    on_record: Callable[[int, Record], None],
    on_boot: OnBoot,
    on_done: Callable[[int], None] = lambda index: None,
) -> None:
    """Run several jobs at once, each in its own lab, and report their results in order.

    The boots and records of a job are held back until all jobs before it are done, so that each
    record follows the boot that it was made in. If a job fails, its error is raised when its turn
    comes. All later jobs are then cancelled and their records dropped, as if they had not started.

    :param queue: the jobs, in the order of their results.
    :param at_once: the number of jobs that run at the same time.
    :param on_record: called with the index of the job and each of its records.
    :param on_boot: called each time a lab is up.
    :param on_done: called with the index of a job after its last record.
    """
    free = asyncio.Semaphore(at_once)
    held: list[list[Callable[[], None]]] = [[] for _ in queue]
    turn = 0

    def in_turn(index: int, report: Callable[[], None]) -> None:
        if index == turn:
            report()
        else:
            held[index].append(report)

    async def one(index: int) -> None:
        def keep(made: Record) -> None:
            in_turn(index, partial(on_record, index, made))

        def up(facts: Facts) -> None:
            in_turn(index, partial(on_boot, facts))

        async with free:
            await queue[index](keep, up)

    tasks = [asyncio.create_task(one(index)) for index in range(len(queue))]
    try:
        for turn, task in enumerate(tasks):  # in_turn() reads it
            for report in held[turn]:
                report()
            await task
            on_done(turn)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
