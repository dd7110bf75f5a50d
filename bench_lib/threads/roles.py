# SPDX-License-Identifier: BSD-3-Clause
"""The roles of a VMM's threads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_lib.record import Role, Thread
from bench_lib.threads.look import ThreadState

_VCPU_FD = re.compile(r"anon_inode:kvm-vcpu:(\d+)")
"""The link target of a vCPU's descriptor. Kernels before v4.15 have no number in it."""

_COMM = re.compile(r"CPU (\d+)/(KVM|TCG)")
"""The name that QEMU gives a vCPU thread with `-name debug-threads=on`."""

_KVM_FRAMES = frozenset({"kvm_vcpu_ioctl", "kvm_arch_vcpu_ioctl_run"})

PROC = Path("/proc")

KVMIO = 0xAE
"""The type (magic number) of all KVM ioctls; see linux/kvm.h."""


@dataclass(frozen=True)
class Part:
    """The role of a thread.

    :ivar vcpu: the number of the vCPU that the thread runs; None if unknown or not a vCPU thread.
    """

    role: Role
    vcpu: int | None = None


def roles(
    pid: int, states: Sequence[ThreadState], vcpus: Mapping[int, int] | None = None
) -> dict[int, Part]:
    """Return the role of each thread, by its id.

    :param vcpus: the number of the vCPU of each vCPU thread, by the thread's id, if the VMM has
        reported them. None to find them in /proc.
    """
    known: Mapping[int, int | None] = _vcpus(pid, states) if vcpus is None else vcpus
    return {state.tid: _part(pid, state, known) for state in states}


def _part(pid: int, state: ThreadState, vcpus: Mapping[int, int | None]) -> Part:
    if state.tid in vcpus:
        return Part(Role.VCPU, vcpus[state.tid])
    if state.tid == pid:
        return Part(Role.MAIN)
    return Part(Role.IOTHREAD if state.name.startswith("IO ") else Role.OTHER)


def _vcpus(pid: int, states: Sequence[ThreadState]) -> dict[int, int | None]:
    """Find the vCPU threads by what they do, else by their names."""
    found: dict[int, int | None] = {}
    for state in states:
        in_kvm = not _KVM_FRAMES.isdisjoint(state.stack)
        # KVM's own threads in the process, such as kvm-nx-lpage-recovery, show the system call of
        # the thread that created them for ever. So `syscall` is read only of threads that are in
        # KVM_RUN or have an empty stack.
        number = _inside(pid, state.tid) if in_kvm or not state.stack else None
        if number is None and (named := _COMM.fullmatch(state.name)):
            number = int(named[1])
        if (number is not None and number not in found.values()) or in_kvm:
            found[state.tid] = number
    unnamed = [tid for tid, number in found.items() if number is None]
    if len(unnamed) == 1:
        left = set(vcpu_fds(pid).values()) - set(found.values())
        if len(left) == 1:
            found[unnamed[0]] = left.pop()
    return found


def vcpu_fds(pid: int) -> dict[int, int]:
    """Return the vCPU behind each descriptor of a process; nothing if we may not see those."""
    found = {}
    try:
        for link in (PROC / f"{pid}/fd").iterdir():
            if (number := _number(link)) is not None:
                found[int(link.name)] = number
    except OSError:
        return {}
    return found


def _inside(pid: int, tid: int) -> int | None:
    """Return the vCPU on which a thread is in a KVM ioctl; None if it runs or we may not see it."""
    try:
        words = (PROC / f"{pid}/task/{tid}/syscall").read_text().split()
        # The number of the system call, then its arguments; "running" if the thread runs.
        fd, request = (int(word, 16) for word in words[1:3])
    except (OSError, ValueError):
        return None
    return _number(PROC / f"{pid}/fd/{fd}") if request >> 8 & 0xFF == KVMIO else None


def _number(link: Path) -> int | None:
    """Return the number of the vCPU that a link in /proc/PID/fd refers to, or None."""
    try:
        named = _VCPU_FD.fullmatch(str(link.readlink()))
    except OSError:
        return None
    return int(named[1]) if named else None


def evidence(seen: ThreadState, part: Part, before: ThreadState | None = None) -> Thread:
    """Convert a look at a thread to its form in a record.

    :param before: the look at the thread before the request, if `seen` is the look after it.
    """
    return Thread(
        seen.tid,
        part.role,
        part.vcpu,
        seen.name,
        seen.state,
        seen.wchan,
        seen.stack,
        seen.entry,
        seen.waits_for,
        signals=seen.signals,
        called=seen.called,
        cpu_ns=0 if before is None else seen.cpu_ns - before.cpu_ns,
    )
