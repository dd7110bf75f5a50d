# SPDX-License-Identifier: BSD-3-Clause
"""The roles of QEMU's threads."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from bench_lib import threads
from bench_lib.record import Role
from bench_lib.threads import Part, ThreadState

PID = 2**22 + 1
"""The pid of no process, so that nothing is read from /proc."""


def thread(tid: int, name: str, stack: tuple[str, ...] = ()) -> ThreadState:
    return ThreadState(tid, "S", "0", stack, 0, pid=PID, name=name)


QEMU = [
    thread(PID, "qemu-system-x86"),
    thread(11, "CPU 0/KVM"),
    thread(12, "CPU 1/KVM"),
    thread(13, "IO mon_iothread"),
    thread(14, "worker"),
]


def test_threads_are_known_by_the_names_that_qemu_gives_them() -> None:
    assert threads.roles(PID, QEMU) == {
        PID: Part(Role.MAIN),
        11: Part(Role.VCPU, 0),
        12: Part(Role.VCPU, 1),
        13: Part(Role.IOTHREAD),
        14: Part(Role.OTHER),
    }


def test_the_thread_ids_that_qemu_reports_come_first() -> None:
    parts = threads.roles(PID, QEMU, {14: 0, 12: 1})
    assert parts[14] == Part(Role.VCPU, 0)
    assert parts[11] == Part(Role.OTHER)


def test_a_thread_in_kvm_run_is_a_vcpu_even_without_a_name() -> None:
    plain = [thread(PID, "qemu"), thread(11, "qemu", ("kvm_vcpu_ioctl", "__x64_sys_ioctl"))]
    assert threads.roles(PID, plain)[11] == Part(Role.VCPU, None)


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the process in a fake /proc."""
    module = importlib.import_module("bench_lib.threads.roles")
    monkeypatch.setattr(module, "PROC", tmp_path)
    (tmp_path / f"{PID}/fd").mkdir(parents=True)
    return tmp_path / str(PID)


def _in_ioctl(proc: Path, tid: int, fd: int, request: int) -> None:
    (proc / f"task/{tid}").mkdir(parents=True)
    line = f"16 {fd:#x} {request:#x} 0x0 0x0 0x0 0x0 0x7ffd 0x7f00\n"
    (proc / f"task/{tid}/syscall").write_text(line)


def test_a_thread_is_known_by_the_vcpu_of_its_ioctl(proc: Path) -> None:
    (proc / "fd/28").symlink_to("anon_inode:kvm-vcpu:3")
    (proc / "fd/9").symlink_to("anon_inode:kvm-vm")
    _in_ioctl(proc, 11, 28, 0xAE80)
    _in_ioctl(proc, 12, 28, 0x5401)
    _in_ioctl(proc, 13, 9, 0x4020AE46)
    parts = threads.roles(PID, [thread(tid, "qemu") for tid in (11, 12, 13)])
    assert [parts[tid] for tid in (11, 12, 13)] == [Part(Role.VCPU, 3), *[Part(Role.OTHER)] * 2]


def test_a_kernel_thread_of_kvm_is_not_a_vcpu(proc: Path) -> None:
    (proc / "fd/28").symlink_to("anon_inode:kvm-vcpu:0")
    for tid in (11, 12, 13):
        _in_ioctl(proc, tid, 28, 0xAE80)
    own = thread(12, "kvm-nx-lpage-re", ("vhost_task_fn", "ret_from_fork", "ret_from_fork_asm"))
    vcpu, unseen = thread(11, "CPU 0/KVM", ("kvm_vcpu_ioctl",)), thread(13, "kvm-nx-lpage-re")
    parts = threads.roles(PID, [vcpu, own, unseen])
    assert [parts[tid].role for tid in (11, 12, 13)] == [Role.VCPU, Role.OTHER, Role.OTHER]


def test_a_vcpu_without_a_number_gets_the_only_one_left(proc: Path) -> None:
    for number in range(2):
        (proc / f"fd/{number + 20}").symlink_to(f"anon_inode:kvm-vcpu:{number}")
    named, running = thread(11, "CPU 0/KVM"), thread(12, "qemu", ("kvm_vcpu_ioctl",))
    assert threads.roles(PID, [named, running])[12] == Part(Role.VCPU, 1)
