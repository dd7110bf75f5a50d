# SPDX-License-Identifier: BSD-3-Clause
"""Keep the worker of a fleet off the CPUs on which trials are made."""

from __future__ import annotations

import os

from bench_lib.errors import UsageError

ENOUGH = 2
"""The least number of CPUs that trials get to themselves: a guest and QEMU's main thread run at the
same time, and on one CPU they would wait for each other instead of for the worker."""


def pin(cpu: int | None) -> tuple[int, frozenset[int]]:
    """Pin this process to one CPU, and return it and the CPUs for what the process starts.

    These are all other CPUs, or all CPUs if there are fewer than `ENOUGH` others. Call this before
    there are other threads, because each thread inherits the CPUs of the one that starts it.

    :param cpu: the CPU; None for the last one that this process may use.
    :raise UsageError: this process may not use that CPU.
    """
    allowed = os.sched_getaffinity(0)
    if len(allowed) == 1:
        # CPUAffinity= of the systemd unit has pinned this process already. The kernel leaves out
        # CPUs that the cgroup does not have.
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        cpu, allowed = max(allowed) if cpu is None else cpu, os.sched_getaffinity(0)
    chosen = choose(cpu, allowed)
    os.sched_setaffinity(0, {chosen})
    return chosen, others(chosen, allowed)


def choose(cpu: int | None, allowed: set[int]) -> int:
    """The CPU of the worker.

    :param cpu: the CPU that the operator has named; None for the last of those that are allowed.
    :raise UsageError: it is not allowed.
    """
    chosen = max(allowed) if cpu is None else cpu
    if chosen not in allowed:
        these = ", ".join(map(str, sorted(allowed)))
        raise UsageError(f"The worker cannot run on CPU {chosen}; it may use {these}.")
    return chosen


def others(cpu: int, allowed: set[int]) -> frozenset[int]:
    """The CPUs for trials beside a worker on `cpu`."""
    rest = frozenset(allowed - {cpu})
    return rest if len(rest) >= ENOUGH else frozenset(allowed)
