# SPDX-License-Identifier: BSD-3-Clause
"""Catches threads that spin in a page fault where they do it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from bench_lib.deadline import Deadline
from bench_lib.record import Entry
from bench_lib.threads import stack as stacks
from bench_lib.threads.look import ThreadState, observe


def catch(seen: Iterable[ThreadState], deadline: Deadline) -> dict[int, ThreadState]:
    """Look at called threads until each was seen in a page fault, or the deadline has passed.

    A thread that spins there mostly shows no stack; between two tries it does.

    :return: the look that caught a thread, by its id.
    """
    caught: dict[int, ThreadState] = {}
    left: dict[int, ThreadState] = {}
    for state in seen:
        if state.called:
            (left if state.fault_path is Entry.NONE else caught)[state.tid] = state
    while left and not deadline.passed:
        for tid, state in list(left.items()):
            try:
                now = observe(state.pid, tid)
            except ProcessLookupError:
                del left[tid]
                continue
            if now.fault_path is not Entry.NONE:
                caught[tid] = now
                del left[tid]
    return caught


def where_caught(now: ThreadState, caught: dict[int, ThreadState]) -> ThreadState:
    """The thread with the stack by which it was caught, where it shows none that tells as much."""
    then = caught.get(now.tid)
    if then is None or now.fault_path is not Entry.NONE or stacks.in_futex(now.stack):
        return now
    return replace(now, stack=then.stack, wchan=then.wchan)
