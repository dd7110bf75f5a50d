# SPDX-License-Identifier: BSD-3-Clause
"""What `explain` prints, and how it treats processes that it cannot look at."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench_lib import errors, threads
from bench_lib.cli import main
from bench_lib.explain import bounded, find, meaning, show, vmm
from bench_lib.explain.bounded import BLOCKED
from bench_lib.explain.meaning import Meaning
from bench_lib.explain.vmm import OpenFile, Seen, Vmm
from bench_lib.record import Entry, Role, WaitsFor
from tests.traced import traced

POLL = ("poll_schedule_timeout.constprop.0", "do_sys_poll", "__x64_sys_ppoll")
FUTEX = ("futex_do_wait", "__futex_wait", "futex_wait", "do_futex")
GUP = ("handle_userfault", "__get_user_pages", "hva_to_pfn", "kvm_arch_vcpu_ioctl_run")
UACCESS = ("handle_userfault", "exc_page_fault", "asm_exc_page_fault", "kvm_arch_vcpu_ioctl_run")


def thread(
    role: Role,
    state: str,
    stack: tuple[str, ...],
    entry: Entry,
    waits_for: WaitsFor = WaitsFor.NOTHING,
    *,
    tid: int = 1,
    vcpu: int | None = None,
    called: bool = False,
    cpu_share: float = 0.0,
) -> Seen:
    signals = ("SIGUSR1",) if called else ()
    wchan = stack[0] if stack else "0"
    name = "qemu" if role is Role.MAIN else "thread"
    still = state in "SD" and cpu_share == 0
    return Seen(tid, role, vcpu, name, state, wchan, stack, entry, waits_for, signals, called,
                still, cpu_share)  # fmt: skip


IDLE_LOOP = thread(Role.MAIN, "S", POLL, Entry.SYSCALL)
WAITING_LOOP = thread(Role.MAIN, "S", FUTEX, Entry.SYSCALL)


def vcpu(
    state: str,
    stack: tuple[str, ...],
    entry: Entry,
    waits_for: WaitsFor,
    number: int = 0,
    *,
    called: bool = False,
    cpu_share: float = 0.0,
) -> Seen:
    return thread(Role.VCPU, state, stack, entry, waits_for, tid=10 + number, vcpu=number,
                  called=called, cpu_share=cpu_share)  # fmt: skip


def told(*threads: Seen, files: tuple[OpenFile, ...] = ()) -> list[Meaning]:
    return meaning.explain(Vmm(1, "web", "qemu", 0, threads, files=files))


def test_a_vcpu_in_d_answers_nothing_that_needs_it() -> None:
    (only,) = told(IDLE_LOOP, vcpu("D", GUP, Entry.GUP, WaitsFor.USERFAULT))
    assert only.who == "vCPU 0"
    assert only.sentence.startswith("sleeps in state D, where only SIGKILL reaches it: KVM wants")
    assert set(only.hangs) == {"stop", "Ctrl-C", "SIGTERM", "quit", "gdb", "info registers"}
    assert "SIGKILL" in only.works
    assert any("out-of-band" in each for each in only.works)
    assert any(each.startswith("query-status") for each in only.works)
    assert any("migrate-recover" in step and '"resume": true' in step for step in only.free)


def test_a_vcpu_that_a_signal_reaches_answers_everything() -> None:
    (only,) = told(IDLE_LOOP, vcpu("S", GUP, Entry.GUP, WaitsFor.USERFAULT))
    assert only.hangs == ()
    assert "stop" in only.works
    assert "a signal ends the wait" in only.sentence


def test_state_s_is_no_proof_once_a_signal_waits() -> None:
    (only,) = told(IDLE_LOOP, vcpu("S", GUP, Entry.GUP, WaitsFor.USERFAULT, called=True))
    assert "does not take SIGUSR1" in only.sentence
    assert "stop" in only.hangs


def test_the_kernels_own_access_spins_at_the_first_signal() -> None:
    (before,) = told(IDLE_LOOP, vcpu("S", UACCESS, Entry.UACCESS, WaitsFor.USERFAULT))
    assert "the first signal only makes it spin" in before.sentence
    assert "stop" in before.hangs
    spinning = vcpu("R", (), Entry.NONE, WaitsFor.NOTHING, called=True, cpu_share=0.98)
    (after,) = told(WAITING_LOOP, spinning)
    assert after.sentence.startswith("spins (98% of a CPU) with SIGUSR1 waiting")


def test_a_main_loop_that_waits_answers_no_monitor_command() -> None:
    clock = ("handle_userfault", "hva_to_pfn", "__kvm_gpc_refresh")
    (only,) = told(WAITING_LOOP, vcpu("D", clock, Entry.GPC, WaitsFor.USERFAULT))
    assert any(each.startswith("query-status") for each in only.hangs)
    assert not any(each.startswith("query-status") for each in only.works)
    assert any("out-of-band" in each for each in only.works)


def test_a_fuse_read_in_state_s_goes_into_state_d_at_the_first_signal() -> None:
    stack = ("request_wait_answer", "fuse_read_folio", "filemap_fault", "hva_to_pfn")
    on_fuse = OpenFile("/mnt/memory", "fuse.sshfs", 51)
    (only,) = told(IDLE_LOOP, vcpu("S", stack, Entry.GUP, WaitsFor.FUSE), files=(on_fuse,))
    assert "the first signal only moves it into state D" in only.sentence
    assert any(each.startswith("SIGKILL (once") for each in only.hangs)
    assert any("/sys/fs/fuse/connections/51/abort" in step for step in only.free)


def test_the_file_system_of_a_missing_page_is_named() -> None:
    stack = ("folio_wait_bit_common", "filemap_fault", "hva_to_pfn")
    stuck = vcpu("D", stack, Entry.GUP, WaitsFor.PAGE_CACHE)
    (nfs,) = told(IDLE_LOOP, stuck, files=(OpenFile("/nfs/memory", "nfs4", 60),))
    assert nfs.free[0] == "Open on a file system with a server: /nfs/memory (nfs4)."
    assert "NFS" in nfs.free[1]
    (unknown,) = told(IDLE_LOOP, stuck)
    assert unknown.free == ("Let the file system or device answer; `dmesg` may name it.",)


def test_not_even_sigkill_ends_a_write_back_or_swapped_out_shared_memory() -> None:
    stack = ("folio_wait_bit_common", "shmem_swapin_folio", "shmem_fault", "hva_to_pfn")
    (only,) = told(IDLE_LOOP, vcpu("D", stack, Entry.GUP, WaitsFor.SWAP))
    assert "not even SIGKILL reaches it" in only.sentence
    assert "SIGKILL" in only.hangs
    assert "SIGKILL" not in only.works


def test_the_thread_that_holds_a_lock_is_named() -> None:
    stack = ("folio_wait_bit_common", "filemap_fault", "hva_to_pfn")
    holder = vcpu("D", stack, Entry.GUP, WaitsFor.PAGE_CACHE)
    waiter = thread(Role.MAIN, "D", ("vm_mmap_pgoff",), Entry.SYSCALL, WaitsFor.LOCK)
    first, second = told(holder, waiter)
    assert (first.who, second.who) == ("vCPU 0", "main")
    assert second.free[0].startswith("It goes on when vCPU 0 does")
    (alone,) = told(waiter)
    assert "is not known" in alone.free[0]


def test_the_vcpus_of_a_big_guest_have_one_line_if_they_are_alike() -> None:
    spinning = [
        vcpu("R", UACCESS, Entry.UACCESS, WaitsFor.USERFAULT, number, called=True, cpu_share=0.01)
        for number in range(64)
    ]
    sleeps = vcpu("S", GUP, Entry.GUP, WaitsFor.USERFAULT, 64)
    text = list(show.lines(Vmm(1, "web", "qemu", 0, (IDLE_LOOP, *spinning, sleeps))))
    assert text[1:4] == [
        "  vCPUs 0-63  R handle_userfault uaccess/userfault SIGUSR1 pending 64% CPU",
        "  vCPU 64     S handle_userfault gup/userfault",
        "  main        S poll_schedule_timeout.constprop.0 syscall/nothing",
    ]


def test_vcpus_that_are_stuck_in_the_same_way_are_explained_once() -> None:
    vcpus = [vcpu("D", GUP, Entry.GUP, WaitsFor.USERFAULT, number) for number in (0, 1, 2, 5)]
    (only,) = told(IDLE_LOOP, *vcpus)
    assert only.who == "vCPUs 0-2, 5"
    assert only.tids == (10, 11, 12, 15)


def test_a_guest_that_does_nothing_is_not_stuck() -> None:
    halted = vcpu("S", ("kvm_vcpu_block", "kvm_vcpu_halt"), Entry.HALTED, WaitsFor.NOTHING)
    stopped = vcpu("S", FUTEX, Entry.SYSCALL, WaitsFor.NOTHING, 1)
    assert told(IDLE_LOOP, halted, stopped) == []


def test_without_stacks_nothing_is_claimed() -> None:
    hidden = Seen(1, Role.VCPU, 0, "CPU 0/KVM", "S", "0", None, None, WaitsFor.NOTHING, still=True)
    seen = Vmm(1, None, "qemu", 107, (hidden,), hidden=(vmm.NO_STACKS,))
    text = "\n".join(show.lines(seen))
    assert "not seen: kernel stacks, which only root may read" in text
    assert "one in state S cannot be judged without its stack" in text
    assert "Nothing is stuck" not in text


def test_without_stacks_only_state_d_is_explained() -> None:
    main = Seen(1, Role.MAIN, None, "qemu", "S", "0", None, None, WaitsFor.NOTHING, still=True)
    hidden = Seen(2, Role.VCPU, 0, "CPU 0/KVM", "D", "0", None, None, WaitsFor.NOTHING, still=True)
    (only,) = told(main, hidden)
    assert "at most SIGKILL reaches it" in only.sentence
    assert "stop" in only.hangs
    assert not any("query-status" in each or "SIGKILL" in each for each in only.works + only.hangs)


def test_the_json_has_the_keys_that_its_description_lists() -> None:
    seen = Vmm(7, "web", "qemu", 0, (vcpu("D", GUP, Entry.GUP, WaitsFor.USERFAULT),))
    (read,) = json.loads(show.as_json([seen], ["something"]))["vmms"]
    text = CliRunner().invoke(main, ["explain", "--help"]).output
    _, vmm_keys, thread_keys, meaning_keys = re.split(
        r"^ +(?:VMM|threads|meanings) +(?=\w)", text.partition("JSON:")[2], flags=re.MULTILINE
    )
    for told, keys in (
        (vmm_keys, read),
        (thread_keys, read["threads"][0]),
        (meaning_keys.partition("\n\n")[0], read["meanings"][0]),
    ):
        # The meaning of a key follows in parentheses.
        assert set(re.findall(r"\w+", re.sub(r"\([^)]*\)|\band\b", "", told))) == set(keys)


@pytest.mark.parametrize(
    "value, name",
    [
        ("web", "web"),
        ("guest=web,debug-threads=on", "web"),
        ("debug-threads=on,guest=web", "web"),
        ("guest=a,,b,debug-threads=on", "a,b"),
        ("process=qemu", None),
    ],
)
def test_the_name_of_a_guest_is_read_as_qemu_reads_it(value: str, name: str | None) -> None:
    assert find.guest_name(value) == name


def test_a_reader_that_the_kernel_keeps_waiting_is_given_up_and_the_next_is_read() -> None:
    def read(number: int) -> int:
        if number == 2:
            time.sleep(3600)
        return number * 10

    found = list(bounded.each([1, 2, 3], read, int, 0.3))
    assert found == [(1, 10), (2, BLOCKED), (3, 30)]


@pytest.fixture
def sees_vcpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every process look like one that has a vCPU."""
    monkeypatch.setattr(vmm, "_links", lambda folder: {"9": "anon_inode:kvm-vcpu:0"})


def _fails(pid: int | str, error: type[errors.ExplainError]) -> str:
    done = CliRunner().invoke(main, ["explain", str(pid)])
    assert done.exit_code == error.exit_status, done.output
    sentence = done.stderr.strip()
    assert sentence.startswith("kickbench: ")
    assert "\n" not in sentence
    return sentence


def test_a_process_that_does_not_exist_is_refused() -> None:
    assert _fails(2**22, errors.ProcessGone) == "kickbench: There is no process 4194304."


def test_a_process_without_a_vcpu_is_refused() -> None:
    assert "runs no vCPU" in _fails(os.getpid(), errors.NotAVmm)


@pytest.mark.parametrize(("uid", "advice"), [(1000, "run as root."), (0, "root lacks a")])
def test_a_process_that_may_not_be_read_is_refused_with_advice(
    monkeypatch: pytest.MonkeyPatch, uid: int, advice: str
) -> None:
    def forbidden(folder: Path) -> dict[str, str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(vmm, "_links", forbidden)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert advice in _fails(os.getpid(), errors.ProcessHidden)


def test_processes_that_may_not_be_read_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = [(1, vmm.Look(None, vmm.HIDDEN)), (2, vmm.Look(None, vmm.OTHER))]
    monkeypatch.setattr(find, "_looks", lambda pids: hidden)
    found, missed = find.all_of_them()
    assert (found, len(missed)) == ([], 1)
    assert missed[0].startswith("This user may not read 1 process. If it is a VMM")


@pytest.mark.parametrize(
    "error", [ProcessLookupError("no process"), OSError(22, "Invalid argument")]
)
def test_a_process_that_ends_during_the_look_is_reported(
    sees_vcpus: None, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def ended(*_: object) -> None:
        raise error

    monkeypatch.setattr(vmm, "_on_servers", ended)
    assert "ended while" in _fails(os.getpid(), errors.ProcessEnded)


def test_a_process_that_the_kernel_does_not_show_is_given_up(
    sees_vcpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vmm, "_on_servers", lambda *_: time.sleep(3600))
    monkeypatch.setattr(find, "LIMIT_S", 0.5)
    assert "did not show process" in _fails(os.getpid(), errors.ProcessBlocked)


def _guests(monkeypatch: pytest.MonkeyPatch, *found: Vmm) -> None:
    monkeypatch.setattr(find, "all_of_them", lambda: (list(found), []))


def test_an_unknown_guest_is_refused_with_the_running_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    unread = Vmm(8, None, "qemu", 0, (), hidden=(find.NO_NAME,))
    _guests(monkeypatch, Vmm(7, "web", "qemu", 0, ()), unread)
    sentence = _fails("db", errors.NoSuchGuest)
    assert "the running guests are: web." in sentence
    assert "The guest name of process 8 cannot be read" in sentence


def test_a_name_of_two_guests_is_refused_with_their_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _guests(monkeypatch, Vmm(7, "web", "qemu", 0, ()), Vmm(8, "web", "qemu", 0, ()))
    assert "processes 7, 8" in _fails("web", errors.GuestNameAmbiguous)


def test_a_name_that_cannot_be_read_does_not_hide_the_threads(
    sees_vcpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find, "_name", lambda pid: time.sleep(3600))
    monkeypatch.setattr(find, "NAME_LIMIT_S", 0.2)
    seen = find.by_pid(os.getpid())
    assert seen.name is None
    assert find.NO_NAME in seen.hidden
    assert seen.threads


@pytest.mark.parametrize("program", ["while True: pass", "time.sleep(1000)"])
def test_a_thread_that_its_tracer_lets_run_is_not_called(sees_vcpus: None, program: str) -> None:
    """A guest that runs under strace does not spin."""
    with traced(program) as target:
        seen = find.by_pid(target.pid)
        assert threads.observe(target.pid, target.pid).called
    assert not any(each.called for each in seen.threads)
    assert not meaning.explain(seen)


def test_a_thread_id_is_accepted_for_its_process(sees_vcpus: None) -> None:
    waits, end = threading.Event(), threading.Event()

    def wait() -> None:
        waits.set()
        end.wait()

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        waits.wait()
        assert waiting.native_id is not None
        seen = find.by_pid(waiting.native_id)
    finally:
        end.set()
        waiting.join()
    assert seen.pid == os.getpid()
    (main,) = (each for each in seen.threads if each.role is Role.MAIN)
    assert main.tid == os.getpid()


@pytest.mark.parametrize("state, free", [("T", "kill -CONT 77"), ("t", "Let the debugger go on")])
def test_a_stopped_vmm_is_explained_with_what_continues_it(state: str, free: str) -> None:
    """Like the source of a migration, whose destination waits for pages."""
    stopped = [thread(role, state, (), Entry.NONE) for role in (Role.MAIN, Role.VCPU)]
    (found,) = meaning.explain(Vmm(77, "web-1", "qemu", 0, tuple(stopped)))
    assert "every thread" in found.who
    assert "is stopped by" in found.sentence
    assert found.works == (meaning.KILL,)
    assert {*meaning.CALLS_VCPUS, *meaning.OUT_OF_BAND} <= set(found.hangs)
    assert found.free[0].startswith(free)


def test_of_five_hundred_threads_all_are_counted_and_few_listed(sees_vcpus: None) -> None:
    program = (
        "import threading, time\n"
        "for _ in range(499):\n"
        "    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            seen = find.by_pid(child.pid)
        finally:
            child.kill()
    assert len(seen.threads) == 500
    text = list(show.lines(seen))
    assert len(text) < 10
    assert "  and 499 other threads, none of them stuck" in text


def test_watch_looks_again_until_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def sleep(seconds: float) -> None:
        looks.append(1)
        if len(looks) == 3:
            raise KeyboardInterrupt

    _guests(monkeypatch, Vmm(7, "web", "qemu", 0, (IDLE_LOOP,)))
    monkeypatch.setattr(time, "sleep", sleep)
    done = CliRunner().invoke(main, ["explain", "--watch"])
    assert done.exit_code == 0
    assert done.output.count("process 7 (qemu), guest web") == 3
