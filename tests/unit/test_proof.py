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


def _thread(state: str, stack: tuple[str, ...], *, fetched: bool = False) -> ThreadState:
    return ThreadState(1, state, "0", stack, cpu_ns=0, fetched=fetched)


@pytest.mark.parametrize("state", ["S", "D"])
@pytest.mark.parametrize("stack, path", [(GUP, Entry.GUP), (STEAL_TIME, Entry.UACCESS)])
def test_a_vcpu_that_is_stuck_on_its_path_is_stuck(
    state: str, stack: tuple[str, ...], path: Entry
) -> None:
    assert proof.is_stuck(_thread(state, stack), path)
    assert proof.is_stuck(_thread(state, stack), None)


@pytest.mark.parametrize("path", [None, Entry.ASYNC_PF])
def test_a_halted_vcpu_is_stuck_only_if_a_worker_fetches_a_page(path: Entry | None) -> None:
    assert proof.is_stuck(_thread("S", HALTED, fetched=True), path)
    assert not proof.is_stuck(_thread("S", HALTED), path)


def test_a_vcpu_that_is_stuck_elsewhere_is_not_stuck_on_the_path() -> None:
    assert not proof.is_stuck(_thread("S", STEAL_TIME), Entry.GUP)


@pytest.mark.parametrize("path", [None, Entry.GUP])
@pytest.mark.parametrize("state, stack", [("R", GUP), ("S", SYSCALL), ("S", ()), ("S", KVM)])
def test_a_thread_that_runs_or_does_not_wait_for_a_page_is_not_stuck(
    state: str, stack: tuple[str, ...], path: Entry | None
) -> None:
    assert not proof.is_stuck(_thread(state, stack), path)


THROTTLED = ("__mem_cgroup_handle_over_high", "xfer_to_guest_mode_handle_work", *KVM)


def test_a_vcpu_that_its_cgroup_delays_is_stuck_but_not_on_the_path() -> None:
    assert proof.is_stuck(_thread("D", THROTTLED), None)
    assert not proof.is_stuck(_thread("D", THROTTLED), Entry.GUP)
    assert not proof.is_stuck(_thread("R", THROTTLED), None)


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


def _proved(looks: list[list[ThreadState]], path: Entry | None, *, halts: bool) -> bool:
    """Whether vCPUs are proved stuck by looks of which the last one repeats itself."""
    rest = iter(looks)
    last: list[ThreadState] = []

    def look(pid: int, tids: Sequence[int]) -> list[ThreadState]:
        nonlocal last
        last = next(rest, last)
        return last

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "look", look)
        proving = proof.stuck(1, [2, 3], path, Deadline.after(0.05), 0.005, halts=halts)
        try:
            asyncio.run(proving)
        except NotStuck:
            return False
    return True


IDLE_MAIN = _thread("S", POLL)


@pytest.mark.parametrize(
    "first, second, proved",
    [
        (_thread("S", GUP), _thread("S", HALTED), True),
        (_thread("D", GPC), _thread("S", STEAL_TIME), True),
        (_thread("S", HALTED), _thread("S", HALTED), False),
        (_thread("S", GUP), _thread("R", ()), False),
        (_thread("S", GUP), _thread("R", HALTED), False),
        (_thread("S", GUP), _thread("S", SYSCALL), False),
    ],
)
def test_a_guest_that_halts_is_stuck_if_one_vcpu_is_and_none_runs(
    first: ThreadState, second: ThreadState, proved: bool
) -> None:
    assert _proved([[first, second, IDLE_MAIN]], None, halts=True) is proved


def test_one_halted_vcpu_is_enough_to_refuse_a_guest_that_never_halts() -> None:
    looks = [[_thread("S", GUP), _thread("S", HALTED), IDLE_MAIN]]
    assert not _proved(looks, None, halts=False)


def test_a_halted_vcpu_that_wakes_between_the_looks_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    times = itertools.count()

    def look(pid: int, tids: Sequence[int]) -> list[ThreadState]:
        woken = dataclasses.replace(_thread("S", HALTED), cpu_ns=next(times))
        return [_thread("S", GUP), woken, IDLE_MAIN]

    monkeypatch.setattr(proof, "look", look)
    with pytest.raises(NotStuck, match="vCPU 1 in state S, 0, entry halted"):
        asyncio.run(proof.stuck(1, [2, 3], None, Deadline.after(0.05), 0.005, halts=True))


def test_an_idle_vcpu_of_a_guest_that_halts_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "look", lambda pid, tids: [_thread("S", HALTED)])
    asyncio.run(proof.alive(1, [2], Deadline.after(60), halts=True))
    with pytest.raises(NotStuck):
        asyncio.run(proof.alive(1, [2], Deadline.after(0.05)))


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
