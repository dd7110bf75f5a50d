# SPDX-License-Identifier: BSD-3-Clause
"""Which thread explains that there is no answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench_lib import threads
from bench_lib.record import Entry, Outcome
from bench_lib.threads import ThreadState

SECOND = 1_000_000_000
PID = 1
GUP = ("handle_userfault", "__get_user_pages", "hva_to_pfn", "kvm_arch_vcpu_ioctl_run")
FOLIO = ("folio_wait_bit_common", "filemap_fault", "__get_user_pages", "hva_to_pfn")
UACCESS = ("handle_userfault", "exc_page_fault", "asm_exc_page_fault", "kvm_vcpu_ioctl")
POLL = ("poll_schedule_timeout.constprop.0", "do_sys_poll", "__x64_sys_ppoll", "do_syscall_64")
FUTEX = ("futex_do_wait", "__futex_wait", "futex_wait", "do_futex", "do_syscall_64")
LOCK = ("vm_mmap_pgoff", "do_syscall_64", "entry_SYSCALL_64_after_hwframe")
SRCU = ("__synchronize_srcu.part.0", "kvm_set_memslot", "kvm_vm_ioctl")


def thread(
    tid: int, state: str, stack: tuple[str, ...], cpu_ns: int = 0, *, called: bool = False
) -> ThreadState:
    return ThreadState(tid, state, "0", stack, cpu_ns, called, pid=PID)


POLLS = thread(PID, "S", POLL)
WAITS = thread(PID, "S", FUTEX)


def blamed(*after: ThreadState) -> tuple[Outcome, int | None]:
    """The outcome and the blocker, for threads that have used no CPU time."""
    outcome, blocker = threads.blame(after, after, SECOND)
    return outcome, None if blocker is None else blocker.tid


@pytest.mark.parametrize("state", ["S", "D"])
def test_a_called_vcpu_that_sleeps_in_the_fault_is_to_blame(state: str) -> None:
    vcpus = thread(2, "S", FUTEX), thread(3, state, GUP, called=True)
    assert blamed(WAITS, *vcpus) == (Outcome.ASLEEP, 3)


def test_a_vcpu_that_sleeps_interruptibly_and_was_not_called_is_not() -> None:
    """Every outage looks like this before the request."""
    assert blamed(WAITS, thread(2, "S", GUP)) == (Outcome.UNANSWERED, None)


def test_a_vcpu_in_d_is_to_blame_though_it_was_not_called() -> None:
    """As with kvmclock: QEMU's main thread waits for it before it can kick any vCPU."""
    assert blamed(WAITS, thread(2, "D", GUP)) == (Outcome.ASLEEP, 2)


def test_a_loop_that_polls_waits_for_no_thread() -> None:
    assert blamed(POLLS, thread(2, "D", FOLIO)) == (Outcome.UNANSWERED, None)
    assert blamed(POLLS, thread(2, "D", FOLIO, called=True)) == (Outcome.ASLEEP, 2)


@pytest.mark.parametrize("stack", [POLL, FUTEX])
def test_threads_in_poll_or_futex_are_never_to_blame(stack: tuple[str, ...]) -> None:
    called = thread(2, "S", stack, called=True)
    assert blamed(WAITS, called) == (Outcome.UNANSWERED, None)


def test_a_called_thread_in_another_system_call_is_not() -> None:
    """A signal ends the call, or nothing is known about it."""
    reading = thread(2, "S", ("anon_pipe_read", "vfs_read", "do_syscall_64"), called=True)
    assert blamed(WAITS, reading) == (Outcome.UNANSWERED, None)


def test_a_called_thread_is_blamed_before_one_that_is_only_in_d() -> None:
    assert blamed(WAITS, thread(2, "D", FOLIO), thread(3, "S", GUP, called=True)) == (
        Outcome.ASLEEP,
        3,
    )


def test_a_thread_that_waits_for_a_lock_is_blamed_last() -> None:
    assert blamed(thread(PID, "D", LOCK), thread(2, "D", FOLIO)) == (Outcome.ASLEEP, 2)
    assert blamed(thread(PID, "D", LOCK)) == (Outcome.ASLEEP, PID)


@pytest.mark.parametrize("state", ["S", "D"])
def test_a_vcpu_in_a_fault_is_blamed_before_a_thread_that_waits_for_it_in_an_srcu(
    state: str,
) -> None:
    """A change of memory slots beside a stuck vCPU: the vCPU reads them, and is not kicked."""
    for stack in (GUP, UACCESS, FOLIO):
        vcpu = thread(3, state, stack)
        assert blamed(thread(PID, "D", SRCU), vcpu) == (Outcome.ASLEEP, 3)
        assert blamed(WAITS, thread(2, "D", SRCU), vcpu) == (Outcome.ASLEEP, 3)


def test_a_thread_that_waits_in_an_srcu_is_to_blame_if_no_vcpu_is_stuck_in_a_fault() -> None:
    """A vCPU that KVM has halted does not read the memory slots."""
    halted = replace(thread(2, "S", ("kvm_vcpu_block", "kvm_vcpu_ioctl")), fetched=True)
    assert halted.entry is Entry.ASYNC_PF
    for vcpu in (halted, thread(2, "S", FUTEX), thread(2, "R", GUP)):
        assert blamed(thread(PID, "D", SRCU), vcpu) == (Outcome.ASLEEP, PID)


def test_a_called_thread_that_waits_for_a_lock_is_blamed_before_a_vcpu_that_is_not_called() -> None:
    seen = thread(2, "D", LOCK, called=True), thread(3, "S", GUP)
    assert blamed(WAITS, *seen) == (Outcome.ASLEEP, 2)


def test_called_threads_that_burn_together_spin_and_the_busiest_is_named() -> None:
    before = [WAITS, thread(2, "S", UACCESS), thread(3, "S", UACCESS)]
    after = [
        WAITS,
        thread(2, "R", UACCESS, SECOND // 8, called=True),
        thread(3, "R", UACCESS, SECOND // 6, called=True),
    ]
    outcome, blocker = threads.blame(before, after, SECOND)
    assert outcome is Outcome.SPINNING
    assert blocker == after[2]


def test_a_thread_that_spins_on_a_busy_host_is_found_by_its_wait_for_a_cpu() -> None:
    """Beside nine other threads on one CPU, it gets a tenth of the time."""
    spins = replace(
        thread(2, "R", UACCESS, SECOND // 10, called=True), delayed_ns=SECOND - SECOND // 10
    )
    outcome, blocker = threads.blame([WAITS, thread(2, "S", UACCESS)], [WAITS, spins], SECOND)
    assert (outcome, blocker) == (Outcome.SPINNING, spins)


def test_a_vcpu_that_runs_its_guest_does_not_spin() -> None:
    before, after = [WAITS, thread(2, "R", ())], [WAITS, thread(2, "R", (), SECOND)]
    assert threads.blame(before, after, SECOND) == (Outcome.UNANSWERED, None)


def test_a_new_thread_does_not_count_as_spinning() -> None:
    after = [WAITS, thread(2, "R", (), SECOND, called=True)]
    assert threads.blame([WAITS], after, SECOND) == (Outcome.UNANSWERED, None)


FUSE = ("request_wait_answer", "fuse_simple_request", "filemap_fault", "hva_to_pfn")


def test_whoever_may_hold_the_lock_is_blamed_if_the_kernel_has_to_answer() -> None:
    """As for ps: the main loop polls, and no signal is pending for the thread in S."""
    seen = POLLS, thread(2, "D", LOCK), thread(3, "S", FUSE)
    assert blamed(*seen) == (Outcome.UNANSWERED, None)
    outcome, blocker = threads.blame(seen, seen, SECOND, acts=False)
    assert outcome is Outcome.ASLEEP
    assert blocker == seen[2]


def test_a_thread_that_polls_or_waits_in_a_futex_holds_no_lock() -> None:
    seen = POLLS, thread(2, "S", FUTEX)
    assert threads.blame(seen, seen, SECOND, acts=False) == (Outcome.UNANSWERED, None)
