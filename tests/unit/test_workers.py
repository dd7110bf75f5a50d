# SPDX-License-Identifier: BSD-3-Clause
"""Which halted vCPUs wait for a page, told by the kernel's workers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bench_lib.record import Entry
from bench_lib.threads import ThreadState, told_apart, workers

KVM = ("kvm_arch_vcpu_ioctl_run", "kvm_vcpu_ioctl", "__x64_sys_ioctl", "do_syscall_64")
HALTED = ThreadState(11, "S", "0", ("kvm_vcpu_block", "kvm_vcpu_halt", *KVM), cpu_ns=0, pid=10)
IN_GUP = ThreadState(12, "S", "0", ("handle_userfault", "hva_to_pfn", *KVM), cpu_ns=0, pid=10)
FETCHES = "handle_userfault < handle_mm_fault < __get_user_pages < async_pf_execute < worker_thread"
ON_FUSE = "folio_wait_bit_common < filemap_fault < __get_user_pages < async_pf_execute"
OTHER = "usb_start_wait_urb < hub_event < process_one_work < worker_thread < kthread"


class Proc:
    """A folder like /proc with kernel threads, and with a process 10 that has files open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "2/task/2").mkdir(parents=True)
        (folder / "10/fd").mkdir(parents=True)
        self.children = folder / "2/task/2/children"
        self.children.write_text("3 ")

    def worker(self, pid: int, state: str, stack: str, name: str = "kworker/0:1-events") -> None:
        folder = self._folder / str(pid)
        folder.mkdir()
        (folder / "comm").write_text(f"{name}\n")
        (folder / "stat").write_text(f"{pid} ({name}) {state} 2 0 0 0\n")
        frames = "".join(f"[<0>] {frame}+0x1/0x2\n" for frame in stack.split(" < "))
        (folder / "stack").write_text(frames)
        self.children.write_text(f"{self.children.read_text()}{pid} ")

    def opens(self, fd: int, target: str) -> None:
        (self._folder / f"10/fd/{fd}").symlink_to(target)


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    made = Proc(tmp_path)
    made.opens(5, "anon_inode:[eventfd]")
    monkeypatch.setattr(workers, "PROC", tmp_path)
    return made


def entries(*looks: ThreadState) -> list[Entry]:
    return [each.entry for each in told_apart(looks)]


def test_a_halted_vcpu_waits_for_a_page_while_a_worker_fetches_one(proc: Proc) -> None:
    proc.opens(9, "anon_inode:[userfaultfd]")
    proc.worker(30, "D", FETCHES)
    assert entries(HALTED, IN_GUP) == [Entry.ASYNC_PF, Entry.GUP]


@pytest.mark.parametrize("state, stack", [("D", OTHER), ("I", FETCHES)])
def test_a_halted_vcpu_is_idle_if_no_worker_fetches_a_page(
    proc: Proc, state: str, stack: str
) -> None:
    proc.opens(9, "anon_inode:[userfaultfd]")
    proc.worker(30, state, stack)
    assert entries(HALTED, IN_GUP) == [Entry.HALTED, Entry.GUP]


def test_a_worker_that_waits_for_a_userfaultfd_serves_no_vmm_without_one(proc: Proc) -> None:
    proc.worker(30, "D", FETCHES)
    assert entries(HALTED) == [Entry.HALTED]


def test_halted_vcpus_are_idle_if_there_are_fewer_workers_than_them(proc: Proc) -> None:
    other = dataclasses.replace(HALTED, tid=13)
    proc.opens(9, "anon_inode:[userfaultfd]")
    proc.worker(30, "D", FETCHES)
    assert entries(HALTED, other) == [Entry.HALTED, Entry.HALTED]
    proc.worker(31, "D", FETCHES)
    assert entries(HALTED, other) == [Entry.ASYNC_PF, Entry.ASYNC_PF]


def test_a_worker_that_waits_for_a_file_may_serve_every_vmm(proc: Proc) -> None:
    proc.worker(30, "D", ON_FUSE)
    assert entries(HALTED) == [Entry.ASYNC_PF]


def test_a_kernel_without_lists_of_children_is_searched_for_workers(proc: Proc) -> None:
    proc.worker(30, "D", ON_FUSE)
    proc.children.unlink()
    assert entries(HALTED) == [Entry.ASYNC_PF]


def test_no_worker_is_read_if_no_vcpu_is_halted(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(pid: int) -> int:
        raise AssertionError("no halted vCPU needs this")

    monkeypatch.setattr(workers, "count", count)
    assert entries(IN_GUP) == [Entry.GUP]


def test_a_vcpu_that_polls_before_it_halts_still_runs() -> None:
    running = ThreadState(11, "R", "0", HALTED.stack, cpu_ns=0, pid=10)
    assert entries(running) == [Entry.NONE]
