# SPDX-License-Identifier: BSD-3-Clause
"""How threads that spin are caught in the page fault."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from bench_lib import threads
from bench_lib.deadline import Deadline
from bench_lib.record import Entry
from bench_lib.threads import ThreadState
from bench_lib.threads import caught as catching

FAULT = ("handle_userfault", "exc_page_fault", "asm_exc_page_fault", "kvm_vcpu_ioctl")
FUTEX = ("futex_do_wait", "__futex_wait", "futex_wait", "do_futex", "do_syscall_64")

OURS = os.sched_getaffinity(0)
LAST_CPU = max(OURS)


def vcpu(state: str, stack: tuple[str, ...], *, called: bool = True) -> ThreadState:
    return ThreadState(2, state, "0", stack, 0, called, pid=1)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[ThreadState]:
    """What each later look at the thread shows."""
    shown: list[ThreadState] = []
    turn: Iterator[ThreadState] = iter(shown)
    monkeypatch.setattr(catching, "observe", lambda pid, tid: next(turn))
    monkeypatch.setattr(catching, "processor", lambda pid, tid: LAST_CPU)
    return shown


def caught(now: ThreadState) -> ThreadState:
    return threads.where_caught(now, threads.catch([now], Deadline.after(3600)))


def test_a_called_thread_that_shows_no_stack_is_caught_by_a_later_look(
    looks: list[ThreadState],
) -> None:
    looks += [vcpu("R", ()), vcpu("R", FAULT)]
    found = caught(vcpu("R", ()))
    assert (found.state, found.entry, found.stack) == ("R", Entry.UACCESS, FAULT)


def test_a_look_is_from_the_threads_own_cpu_and_the_caller_gets_its_cpus_back(
    monkeypatch: pytest.MonkeyPatch, looks: list[ThreadState]
) -> None:
    looked_from: list[set[int]] = []

    def observe(pid: int, tid: int) -> ThreadState:
        looked_from.append(os.sched_getaffinity(0))
        return vcpu("R", FAULT)

    monkeypatch.setattr(catching, "observe", observe)
    caught(vcpu("R", ()))
    assert looked_from == [{LAST_CPU}]
    assert os.sched_getaffinity(0) == OURS


def test_a_thread_that_shows_its_stack_is_not_looked_at_again(looks: list[ThreadState]) -> None:
    for state in ("R", "S", "D"):
        assert caught(vcpu(state, FAULT)) == vcpu(state, FAULT)


def test_a_thread_that_was_not_called_is_not_looked_at_again(looks: list[ThreadState]) -> None:
    assert caught(vcpu("R", (), called=False)) == vcpu("R", (), called=False)


def test_a_thread_that_has_left_the_fault_keeps_its_present_stack(looks: list[ThreadState]) -> None:
    looks.append(vcpu("R", FAULT))
    then = threads.catch([vcpu("R", ())], Deadline.after(3600))
    assert threads.where_caught(vcpu("S", FUTEX), then).stack == FUTEX


def test_a_thread_that_is_never_seen_in_a_fault_is_given_up_at_the_deadline() -> None:
    assert threads.catch([vcpu("R", ())], Deadline.after(0)) == {}
