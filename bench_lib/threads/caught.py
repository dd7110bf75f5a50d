# SPDX-License-Identifier: BSD-3-Clause
"""Catches threads that spin in a page fault where they do it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from bench_lib.deadline import Deadline
from bench_lib.record import Entry
from bench_lib.threads import stack as stacks
from bench_lib.threads.look import ThreadState, observe, processor

REST_S = 0.001
"""How long threads are left alone between two tries."""


def catch(seen: Iterable[ThreadState], deadline: Deadline) -> dict[int, ThreadState]:
    """Look at called threads until each was seen in a page fault, or the deadline has passed.

    The kernel shows the stack of a thread only while another one has its CPU. A thread that spins
    gives its CPU away where it tries to sleep, but only to somebody who wants it: so this looks
    from the CPU that the thread is on.

    :return: the look that caught a thread, by its id.
    """
    caught: dict[int, ThreadState] = {}
    left: dict[int, ThreadState] = {}
    for state in seen:
        if state.called:
            (left if state.fault_path is Entry.NONE else caught)[state.tid] = state
    with _affinity_kept():
        while left and not deadline.passed:
            for tid, state in list(left.items()):
                try:
                    _move_to(processor(state.pid, tid))
                    now = observe(state.pid, tid)
                except ProcessLookupError:
                    del left[tid]
                    continue
                if now.fault_path is not Entry.NONE:
                    caught[tid] = now
                    del left[tid]
            time.sleep(REST_S)
    return caught


@contextmanager
def _affinity_kept() -> Iterator[None]:
    """Give the calling thread its CPUs back."""
    ours = os.sched_getaffinity(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


def _move_to(cpu: int) -> None:
    """Have the calling thread run on `cpu`, where its cpuset lets it."""
    with suppress(OSError):
        os.sched_setaffinity(0, {cpu})


def where_caught(now: ThreadState, caught: dict[int, ThreadState]) -> ThreadState:
    """The thread with the stack by which it was caught, where it shows none that tells as much."""
    then = caught.get(now.tid)
    if then is None or now.fault_path is not Entry.NONE or stacks.in_futex(now.stack):
        return now
    return replace(now, stack=then.stack, wchan=then.wchan)
