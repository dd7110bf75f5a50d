# SPDX-License-Identifier: BSD-3-Clause
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bench_lib import threads
from bench_lib.deadline import Deadline
from bench_lib.errors import EvidenceHidden
from bench_lib.record import Entry, Role
from bench_lib.threads import Part, ThreadState
from tests.conftest import HANG_S


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
        limit = Deadline.after(HANG_S)
        looks = [threads.observe(os.getpid(), tid[0])]
        while looks[-1].state != "S" or len(looks) < 2 or not looks[-1].same_sleep(looks[-2]):
            assert not limit.passed
            looks.append(threads.observe(os.getpid(), tid[0]))
    finally:
        end.set()
        thread.join()
    assert looks[-1].tid == tid[0]


def test_the_cpu_time_of_a_running_thread_is_seen() -> None:
    tid = threading.get_native_id()
    limit = Deadline.after(HANG_S)
    before = after = threads.observe(os.getpid(), tid)
    # The kernel adds the time of a running thread at its ticks, which are some time apart.
    while after.cpu_ns == before.cpu_ns:
        assert not limit.passed
        after = threads.observe(os.getpid(), tid)
    assert after.state == "R"
    evidence = threads.evidence(after, Part(Role.VCPU, 0), before)
    assert evidence.cpu_ns > 0


def test_a_thread_is_called_until_it_takes_its_signal() -> None:
    tid = threading.get_native_id()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        assert not threads.observe(os.getpid(), tid).called
        threads.kick(os.getpid(), tid, signal.SIGUSR1)
        seen = threads.observe(os.getpid(), tid)
        assert seen.called
        assert seen.signals == ("SIGUSR1",)
        signal.sigwait({signal.SIGUSR1})
        assert not threads.observe(os.getpid(), tid).called
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_kernel_without_stacks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Path, errors: str | None = None) -> str:
        raise FileNotFoundError(2, "No such file or directory", str(self))

    monkeypatch.setattr(Path, "read_text", missing)
    with pytest.raises(EvidenceHidden, match=r"has no /proc/.*/stack; .*CONFIG_STACKTRACE"):
        threads.observe(os.getpid(), threading.get_native_id())


def test_a_thread_that_is_gone_is_an_error() -> None:
    with pytest.raises(ProcessLookupError):
        threads.observe(os.getpid(), 2**22)


BLOCKS = """
import os, signal, threading
from bench_lib import threads
begun, end = threading.Event(), threading.Event()

def other():
    begun.set()
    end.wait()

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
thread = threading.Thread(target=other)
thread.start()
begun.wait()
os.kill(os.getpid(), signal.SIGUSR1)
seen = threads.observe(os.getpid(), threading.get_native_id())
print(seen.pending, seen.signals, seen.called)
end.set()
thread.join()
"""


def test_a_thread_that_blocks_a_signal_to_its_process_is_not_called() -> None:
    # In a process of its own, because the threads of other tests would take the signal.
    done = subprocess.run([sys.executable, "-c", BLOCKS], capture_output=True, text=True)
    assert done.stdout == "('SIGUSR1',) () False\n", done


def test_all_threads_are_seen_the_main_thread_first() -> None:
    begun, end = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        end.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        begun.wait()
        seen = threads.observe_all(os.getpid())
        assert seen[0].tid == os.getpid()
        assert thread.native_id in {state.tid for state in seen}
        assert {state.pid for state in seen} == {os.getpid()}
        assert all(state.name for state in seen)
    finally:
        end.set()
        thread.join()


def test_a_process_that_is_gone_is_an_error() -> None:
    with pytest.raises(ProcessLookupError):
        threads.observe_all(2**22)


def test_a_process_whose_main_thread_has_ended_is_seen() -> None:
    """The process is a zombie until its last thread has ended."""
    program = (
        "import ctypes, threading, time\n"
        "def other():\n"
        "    print('up', flush=True)\n"
        "    time.sleep(60)\n"
        "threading.Thread(target=other).start()\n"
        "ctypes.CDLL(None).syscall(60, 0)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            limit = Deadline.after(10)
            while threads.observe_all(child.pid)[0].state != "Z":
                assert not limit.passed
            # A look reads several files in turn, and only from now on all of them show a zombie.
            seen = threads.observe_all(child.pid)
            assert len(seen) == 2
            assert seen[0].entry is Entry.NONE
        finally:
            child.kill()


def test_a_thread_with_any_name_is_seen() -> None:
    names: list[str] = []

    def renamed() -> None:
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_bytes(b"a) R (b\xff")
        names.append(threads.observe(os.getpid(), threading.get_native_id()).name)

    thread = threading.Thread(target=renamed)
    thread.start()
    thread.join()
    assert names == ["a) R (b\ufffd"]


@pytest.mark.parametrize("state", ["R", "S"])
def test_only_a_thread_that_does_not_run_is_in_a_system_call(state: str) -> None:
    seen = ThreadState(1, state, "0", ("do_filp_open", "do_sys_openat2", "do_syscall_64"), 0)
    assert seen.entry is (Entry.NONE if state == "R" else Entry.SYSCALL)
