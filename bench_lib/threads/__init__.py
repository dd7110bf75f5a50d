# SPDX-License-Identifier: BSD-3-Clause
"""What the kernel shows of the threads of a process, and what that means."""

from bench_lib.threads.blame import blame
from bench_lib.threads.caught import catch, where_caught
from bench_lib.threads.look import (
    ASLEEP,
    IN_A_PAGE,
    RUNNING,
    SPINNING_SHARE,
    TRACED,
    ThreadState,
    kick,
    observe,
    observe_all,
    pending,
    spin,
    told_apart,
    tracer_of,
)
from bench_lib.threads.roles import Part, evidence, roles
from bench_lib.threads.stack import entry, functions, in_futex, polls, waits_for

__all__ = [
    "ASLEEP",
    "IN_A_PAGE",
    "RUNNING",
    "SPINNING_SHARE",
    "TRACED",
    "Part",
    "ThreadState",
    "blame",
    "catch",
    "entry",
    "evidence",
    "functions",
    "in_futex",
    "kick",
    "observe",
    "observe_all",
    "pending",
    "polls",
    "roles",
    "spin",
    "told_apart",
    "tracer_of",
    "waits_for",
    "where_caught",
]
