# SPDX-License-Identifier: BSD-3-Clause
"""What a kernel stack shows: how the thread got into the kernel, and what it waits for there.

Stacks are those of /proc/PID/task/TID/stack: innermost function first, and without the scheduler's
functions, which the kernel leaves out. It leaves out the slow paths of mutex and rwsem too, so a
thread that waits for a lock shows only the function that takes the lock (measured on Linux 6.18).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench_lib import architecture
from bench_lib.architecture import Architecture
from bench_lib.record import Entry, WaitsFor

_FRAME = re.compile(r"^\[<[0-9a-fx]+>\] ([^+\s]+)", re.MULTILINE)

_GPC = re.compile(r"(^|_)gpc(_|$)|gfn_to_pfn_cache|^hva_to_pfn_retry$")
_GUP = re.compile(
    r"^(_*(internal_)?(get|pin)_user_pages|_*gup_|hva_to_pfn|fixup_user_fault$|faultin_page)"
)
_HALTED = re.compile(r"^kvm_vcpu_(block|halt)$")

_SCHEDULER = re.compile(
    r"^(_*schedule(_.*)?|io_schedule(_.*)?|__cond_resched|preempt_schedule.*|__switch_to(_asm)?"
    r"|(__)?wait_for_(common|completion).*)$"
)

_POLL = re.compile(r"^(poll_schedule_timeout|do_poll|do_sys_poll|do_select|do_epoll_wait|ep_poll)$")
_FUTEX = re.compile(r"^(__)?(do_futex|futex_(do_)?wait(_queue)?(_me)?|futex_lock_pi)$")

_LOCK = re.compile(
    r"^_*(rwsem_|down_(read|write)|mutex_|rt_mutex_|percpu_(down|rwsem)|synchronize_s?rcu"
    r"|wait_rcu_)"
)

_TAKES_A_LOCK = frozenset(
    {
        # System calls that take mmap_lock. Each function was seen innermost while another thread
        # held the lock, or is the older name of such a function.
        "vm_mmap_pgoff", "__vm_munmap", "do_mprotect_pkey", "__do_sys_brk", "__x64_sys_brk",
        "dup_mmap", "madvise_lock", "do_madvise", "process_vm_rw_core", "__access_remote_vm",
        "do_mlock", "__mm_populate", "__vma_start_write", "__vma_enter_locked",
        "__do_sys_mremap", "__do_sys_mincore", "exit_mm", "exit_mmap",
        # Reads of /proc/PID/smaps and smaps_rollup; older kernels read maps in the same way.
        "m_start", "show_smaps_rollup",
        # Page faults and get_user_pages(), which take mmap_lock too.
        "lock_mm_and_find_vma", "hva_to_pfn", "get_user_pages_unlocked",
        "__get_user_pages_locked", "__gup_longterm_locked",
        # KVM's slots_lock.
        "kvm_vm_ioctl_set_memory_region", "kvm_set_memory_region",
    }
)  # fmt: skip
"""Functions that are innermost in a sleep only while they take a lock."""

_WAITS = (
    (re.compile(r"^handle_userfault$"), WaitsFor.USERFAULT),
    # fuse_dev_* belong to the FUSE server.
    (re.compile(r"^_*(fuse_(?!dev_)|request_wait_answer$)"), WaitsFor.FUSE),
    (re.compile(r"^_*(nfs\d*_|rpc_)"), WaitsFor.NFS),
    (
        re.compile(r"^_*(do_swap_page|swap_read|shmem_swapin|swapin_|read_swap_|swap_.*readahead)"),
        WaitsFor.SWAP,
    ),
    (re.compile(r"^_*mem_cgroup_handle_over_high$"), WaitsFor.MEMORY_LIMIT),
    (
        re.compile(
            r"^_*(filemap_|folio_wait_|folio_lock|wait_on_page_|lock_page|balance_dirty_pages)"
        ),
        WaitsFor.PAGE_CACHE,
    ),
)
"""What each function waits for, from the most specific to the least specific."""


def parse(text: str) -> tuple[str, ...]:
    """Return the functions in the text of a `stack` file, innermost first."""
    return tuple(_FRAME.findall(text))


def functions(stack: Sequence[str]) -> list[str]:
    """Return the functions' names in the source (x for x.isra.0), without the scheduler's."""
    named = (frame.split(".")[0] for frame in stack)
    return [name for name in named if not _SCHEDULER.match(name)]


def entry(stack: Sequence[str], machine: Architecture | None = None) -> Entry:
    """Determine how a thread with this kernel stack got into the kernel.

    The innermost significant frame decides: if KVM's emulator calls get_user_pages(), the entry is
    `gup` and not the emulator's own access. A vCPU thread in an asynchronous page fault has the
    same stack as one whose guest is idle, and counts as `halted` here; see `workers`.

    :param machine: the architecture that the stack comes from; by default that of this machine.
    """
    machine = machine or architecture.here()
    frames = functions(stack)
    if any(_GPC.search(name) for name in frames):
        return Entry.GPC
    for depth, name in enumerate(frames):
        if name in machine.fault_frames:
            way = machine.fault_frames | machine.exception_frames
            return Entry.USER if way.issuperset(frames[depth:]) else Entry.UACCESS
        if _GUP.match(name):
            return Entry.GUP
        if _HALTED.match(name):
            return Entry.HALTED
    return Entry.NONE if machine.run_frames.issuperset(frames) else Entry.SYSCALL


def waits_for(stack: Sequence[str], machine: Architecture | None = None) -> WaitsFor:
    """Determine what a thread with this kernel stack waits for.

    :param machine: the architecture that the stack comes from; by default that of this machine.
    """
    machine = machine or architecture.here()
    frames = functions(stack)
    if not frames:
        return WaitsFor.NOTHING
    # A page fault that sleeps in the architecture's own handler waits for mmap_lock.
    if _LOCK.match(frames[0]) or frames[0] in _TAKES_A_LOCK | machine.fault_frames:
        return WaitsFor.LOCK
    for pattern, what in _WAITS:
        if any(pattern.match(name) for name in frames):
            return what
    return WaitsFor.NOTHING


def polls(stack: Sequence[str]) -> bool:
    """Whether the thread polls descriptors, as an idle event loop does."""
    return any(_POLL.match(name) for name in functions(stack))


def in_futex(stack: Sequence[str]) -> bool:
    """Whether the thread waits in a futex, which means for another thread of its program."""
    return any(_FUTEX.match(name) for name in functions(stack))
