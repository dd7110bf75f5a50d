import os
import signal
import threading
from pathlib import Path

import pytest

from bench_lib import threads
from bench_lib.deadline import Deadline
from bench_lib.errors import EvidenceHidden
from bench_lib.record import Entry

# As seen on vCPU threads of real guests.
GUP_6_1 = (
    "handle_userfault", "do_anonymous_page", "__handle_mm_fault", "handle_mm_fault",
    "__get_user_pages", "get_user_pages_unlocked", "hva_to_pfn", "__gfn_to_pfn_memslot",
    "kvm_faultin_pfn", "direct_page_fault", "kvm_mmu_page_fault", "vcpu_enter_guest.constprop.0",
    "kvm_arch_vcpu_ioctl_run", "kvm_vcpu_ioctl", "__x64_sys_ioctl", "do_syscall_64",
)  # fmt: skip
UACCESS = (
    "handle_userfault", "do_anonymous_page", "handle_mm_fault", "do_user_addr_fault",
    "exc_page_fault", "asm_exc_page_fault", "__kvm_read_guest_page", "kvm_vcpu_read_guest",
    "x86_emulate_insn", "kvm_arch_vcpu_ioctl_run",
)  # fmt: skip
HALTED = ("kvm_vcpu_block", "kvm_vcpu_halt", "kvm_arch_vcpu_ioctl_run", "kvm_vcpu_ioctl")
FUTEX = ("futex_wait_queue", "futex_wait", "do_futex", "__x64_sys_futex")


@pytest.mark.parametrize(
    "stack, path",
    [
        (GUP_6_1, Entry.GUP),
        (UACCESS, Entry.UACCESS),
        (HALTED, Entry.ASYNC_PF),
        (FUTEX, Entry.NONE),
        ((), Entry.NONE),
        # In get_user_pages(), but on its way, not asleep in the fault.
        (GUP_6_1[1:], Entry.NONE),
        # Compilers rename what they clone.
        (("handle_userfault", "hva_to_pfn.isra.0"), Entry.GUP),
    ],
)
def test_the_stack_tells_the_fault_path(stack: tuple[str, ...], path: Entry) -> None:
    assert threads.fault_path(stack) is path


def test_a_sleeping_thread_is_seen_asleep() -> None:
    begun, end = threading.Event(), threading.Event()
    tid: list[int] = []

    def sleep() -> None:
        tid.append(threading.get_native_id())
        begun.set()
        end.wait()

    thread = threading.Thread(target=sleep)
    thread.start()
    try:
        begun.wait()
        limit = Deadline.after(10)
        looks = [threads.observe(os.getpid(), tid[0])]
        while looks[-1].state != "S" or len(looks) < 2 or not looks[-1].same_sleep(looks[-2]):
            assert not limit.passed
            looks.append(threads.observe(os.getpid(), tid[0]))
    finally:
        end.set()
        thread.join()
    last = looks[-1]
    assert (last.tid, last.state) == (tid[0], "S")
    assert last.cpu_ns >= 0


def test_a_thread_that_burns_cpu_time_is_seen_to() -> None:
    tid = threading.get_native_id()
    before = threads.observe(os.getpid(), tid)
    sum(range(2_000_000))
    after = threads.observe(os.getpid(), tid)
    assert after.state == "R"
    evidence = threads.evidence(0, after, before)
    assert evidence.cpu_ns > 0


def test_a_thread_that_is_signalled_is_called_until_it_takes_it() -> None:
    tid = threading.get_native_id()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        assert not threads.observe(os.getpid(), tid).called
        threads.kick(os.getpid(), tid, signal.SIGUSR1)
        assert threads.observe(os.getpid(), tid).called
        signal.sigwait({signal.SIGUSR1})
        assert not threads.observe(os.getpid(), tid).called
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_kernel_without_stacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Path) -> str:
        raise FileNotFoundError(2, "No such file or directory", str(self))

    monkeypatch.setattr(Path, "read_text", missing)
    with pytest.raises(EvidenceHidden, match=r"has no /proc/.*/stack; .*CONFIG_STACKTRACE"):
        threads.observe(os.getpid(), threading.get_native_id())


def test_a_thread_that_is_gone_is_an_error() -> None:
    with pytest.raises(ProcessLookupError):
        threads.observe(os.getpid(), 2**22)
