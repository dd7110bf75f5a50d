# SPDX-License-Identifier: BSD-3-Clause
import asyncio
import dataclasses
import itertools
from collections.abc import Sequence

import pytest

from bench_lib.deadline import Deadline
from bench_lib.errors import DeadlinePassed, NotStuck
from bench_lib.record import Entry
from bench_lib.threads import ThreadState
from bench_lib.trial import proof

KVM = ("kvm_arch_vcpu_ioctl_run", "kvm_vcpu_ioctl", "__x64_sys_ioctl", "do_syscall_64")
GUP = ("handle_userfault", "handle_mm_fault", "__get_user_pages", "hva_to_pfn", *KVM)
STEAL_TIME = ("handle_userfault", "handle_mm_fault", "asm_exc_page_fault", *KVM)
HALTED = ("kvm_vcpu_block", "kvm_vcpu_halt", *KVM)
SYSCALL = ("futex_wait_queue", "do_futex", "__x64_sys_futex", "do_syscall_64")


def _thread(state: str, stack: tuple[str, ...]) -> ThreadState:
    return ThreadState(1, state, "0", stack, cpu_ns=0)


@pytest.mark.parametrize("state", ["S", "D"])
@pytest.mark.parametrize(
    "stack, path", [(GUP, Entry.GUP), (STEAL_TIME, Entry.UACCESS), (HALTED, Entry.ASYNC_PF)]
)
def test_a_vcpu_that_is_stuck_on_its_path_is_stuck(
    state: str, stack: tuple[str, ...], path: Entry
) -> None:
    assert proof.is_stuck(_thread(state, stack), path)
    assert proof.is_stuck(_thread(state, stack), None)


def test_a_vcpu_that_is_stuck_elsewhere_is_not_stuck_on_the_path() -> None:
    assert not proof.is_stuck(_thread("S", STEAL_TIME), Entry.GUP)


@pytest.mark.parametrize("path", [None, Entry.GUP])
@pytest.mark.parametrize("state, stack", [("R", GUP), ("S", SYSCALL), ("S", ()), ("S", KVM)])
def test_a_thread_that_runs_or_does_not_wait_for_a_page_is_not_stuck(
    state: str, stack: tuple[str, ...], path: Entry | None
) -> None:
    assert not proof.is_stuck(_thread(state, stack), path)


GPC = ("handle_userfault", "__get_user_pages", "hva_to_pfn", "__kvm_gpc_refresh", "msr_io")
POLL = ("poll_schedule_timeout", "do_sys_poll", "__x64_sys_ppoll", "do_syscall_64")


@pytest.mark.parametrize(
    "others, main, held_up",
    [
        ([SYSCALL, SYSCALL], SYSCALL, True),
        ([], SYSCALL, True),
        # The main loop is idle, or a vCPU runs or waits for something else.
        ([SYSCALL], POLL, False),
        ([()], SYSCALL, False),
        ([POLL], SYSCALL, False),
    ],
)
def test_one_vcpu_that_is_stuck_can_hold_up_the_main_loop(
    others: list[tuple[str, ...]], main: tuple[str, ...], held_up: bool
) -> None:
    vcpus = [_thread("D", GPC), *(_thread("S", stack) for stack in others)]
    assert proof.is_held_up(vcpus, _thread("S", main)) is held_up


def test_vcpus_that_wait_for_the_main_loop_are_not_held_up_by_one_of_them() -> None:
    assert not proof.is_held_up([_thread("S", SYSCALL)], _thread("S", SYSCALL))


def test_a_vcpu_that_sleeps_anew_at_each_look_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first vCPU gets pages, and the second gets none."""
    times = itertools.count()

    def look(pid: int, tids: Sequence[int]) -> list[ThreadState]:
        return [dataclasses.replace(_thread("S", GUP), cpu_ns=next(times)), _thread("S", GUP)]

    monkeypatch.setattr(proof, "look", look)
    with pytest.raises(NotStuck) as raised:
        asyncio.run(proof.stuck(1, [2, 3], Entry.GUP, Deadline.after(0.05), 0.005))
    first, second = str(raised.value).split("; ")
    assert first.endswith("but in another sleep than 0.005 s before")
    assert "another sleep" not in second


def test_a_process_that_only_sleeps_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "look_at_all", lambda pid, proved: [_thread("S", SYSCALL)])
    asyncio.run(proof.quiet(1, Deadline.after(60)))


def test_a_thread_that_waits_for_a_cpu_is_not_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = [_thread("S", SYSCALL), _thread("R", SYSCALL)]
    monkeypatch.setattr(proof, "look_at_all", lambda pid, proved: waiting)
    with pytest.raises(DeadlinePassed):
        asyncio.run(proof.quiet(1, Deadline.after(0.05)))
