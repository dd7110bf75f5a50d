# SPDX-License-Identifier: BSD-3-Clause
"""Looking at threads that spin in a page fault, at the moment when their stack shows it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from bench_lib.deadline import Deadline
from bench_lib.record import Entry
from bench_lib.threads import stack as stacks
from bench_lib.threads.look import ASLEEP, ThreadState, observe, processor

REST_S = 0.001
"""Seconds between two tries."""


def catch(seen: Iterable[ThreadState], deadline: Deadline) -> dict[int, ThreadState]:
    """Look at called threads until each was seen in a page fault, or the deadline has passed.

    A thread that sleeps where it slept in the look before does not spin, and is left alone.

    The kernel shows the stack of a thread only while the thread does not run. A thread that spins
    yields its CPU where it tries to sleep, but only if another thread wants that CPU. So this
    function runs on the CPU of the thread that it looks at.

    :param seen: an earlier look at each thread.
    :return: for the id of each thread that was caught, the look that shows it in a page fault.
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
                elif now.state in ASLEEP and now.same_sleep(state):
                    del left[tid]
                else:
                    left[tid] = now
            time.sleep(REST_S)
    return caught


@contextmanager
def _affinity_kept() -> Iterator[None]:
    """Restore the CPU affinity of the calling thread when the context is left."""
    ours = os.sched_getaffinity(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


def _move_to(cpu: int) -> None:
    """Bind the calling thread to `cpu`, if its cpuset allows that."""
    with suppress(OSError):
        os.sched_setaffinity(0, {cpu})


def where_caught(now: ThreadState, caught: dict[int, ThreadState]) -> ThreadState:
    """Return `now` with the stack of the look that caught the thread, if `now` shows no fault."""
    then = caught.get(now.tid)
    if then is None or now.fault_path is not Entry.NONE or stacks.in_futex(now.stack):
        return now
    return replace(now, stack=then.stack, wchan=then.wchan)
