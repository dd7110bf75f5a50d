# SPDX-License-Identifier: BSD-3-Clause
"""The meaning of kernel stacks."""

from __future__ import annotations

import pytest

from bench_lib import threads
from bench_lib.architecture import ARCHITECTURES
from bench_lib.record import Entry, WaitsFor
from bench_lib.threads import stack as stacks

X86 = ARCHITECTURES["x86_64"]

SYSCALL = " < do_syscall_64 < entry_SYSCALL_64_after_hwframe"
RUN = " < kvm_arch_vcpu_ioctl_run < kvm_vcpu_ioctl < __x64_sys_ioctl" + SYSCALL
PVM = " < __pvm_handle_exit.isra.0 < pvm_handle_exit" + RUN
USERFAULT = "handle_userfault < __handle_mm_fault < handle_mm_fault"
GUP = " < __get_user_pages < get_user_pages_unlocked < hva_to_pfn"
FOLIO = "folio_wait_bit_common < filemap_fault < __do_fault < do_fault < __handle_mm_fault"
FUSE = "request_wait_answer < __fuse_simple_request"
READAHEAD = FUSE + " < fuse_readahead < read_pages < page_cache_ra_unbounded"
FAULT = " < exc_page_fault < asm_exc_page_fault"

SEEN = [
    # Seen in vCPU threads of trials.
    ("gup on 6.18", Entry.GUP, WaitsFor.USERFAULT,
     USERFAULT + GUP + " < __kvm_faultin_pfn < kvm_mmu_faultin_pfn < paging64_page_fault"
     " < kvm_mmu_do_page_fault < kvm_mmu_page_fault < pvm_handle_native_exit" + PVM),
    ("gup on 6.1", Entry.GUP, WaitsFor.USERFAULT,
     USERFAULT + GUP + " < kvm_faultin_pfn < direct_page_fault < kvm_mmu_page_fault" + RUN),
    ("gup on 6.12", Entry.GUP, WaitsFor.USERFAULT,
     USERFAULT + GUP + " < kvm_faultin_pfn < kvm_tdp_page_fault < kvm_mmu_do_page_fault"
     " < kvm_mmu_page_fault < npf_interception" + RUN),
    ("gup on 6.1, anonymous", Entry.GUP, WaitsFor.USERFAULT,
     "handle_userfault < do_anonymous_page < __handle_mm_fault < handle_mm_fault" + GUP +
     " < __gfn_to_pfn_memslot < kvm_faultin_pfn < direct_page_fault < kvm_mmu_page_fault"
     " < vcpu_enter_guest.constprop.0" + RUN),
    ("emulator on 6.18", Entry.UACCESS, WaitsFor.USERFAULT,
     USERFAULT + FAULT + " < __kvm_read_guest_page < kvm_vcpu_read_guest < read_emulate"
     " < emulator_read_write_onepage < emulator_read_write < read_emulated < x86_emulate_insn"
     " < x86_emulate_instruction < pvm_emulate_insn_scrubbed.constprop.0" + PVM),
    ("steal time on 6.1, 6.12 and 7.2", Entry.UACCESS, WaitsFor.USERFAULT,
     USERFAULT + " < do_user_addr_fault" + FAULT +
     " < record_steal_time < kvm_arch_vcpu_ioctl_run"),
    ("steal time on 6.18, inlined", Entry.UACCESS, WaitsFor.USERFAULT, USERFAULT + FAULT + RUN),
    ("async-pf data on 7.2", Entry.UACCESS, WaitsFor.USERFAULT,
     USERFAULT + FAULT + " < rep_movs_alternative < kvm_read_guest_offset_cached"
     " < kvm_arch_can_dequeue_async_page_present < kvm_check_async_pf_completion" + RUN),
    ("kvmclock on 6.18", Entry.GPC, WaitsFor.USERFAULT,
     USERFAULT + GUP + " < __kvm_gpc_refresh < __kvm_gpc_activate < kvm_set_msr_common < msr_io"
     " < kvm_arch_vcpu_ioctl < kvm_vcpu_ioctl < __x64_sys_ioctl" + SYSCALL),
    ("kvmclock on 6.1", Entry.GPC, WaitsFor.USERFAULT,
     USERFAULT + GUP + " < kvm_gfn_to_pfn_cache_refresh < kvm_set_msr_common < __kvm_set_msr"
     " < kvm_arch_vcpu_ioctl < kvm_vcpu_ioctl < __x64_sys_ioctl" + SYSCALL),
    ("kvmclock on 6.12", Entry.GPC, WaitsFor.USERFAULT,
     USERFAULT + GUP + " < __kvm_gpc_refresh < __kvm_gpc_activate < kvm_set_msr_common"
     " < kvm_set_msr_ignored_check < kvm_arch_vcpu_ioctl < kvm_vcpu_ioctl < __x64_sys_ioctl"
     + SYSCALL),
    ("memory on FUSE on 6.18", Entry.GUP, WaitsFor.PAGE_CACHE,
     FOLIO + " < handle_mm_fault" + GUP + " < __kvm_faultin_pfn" + RUN),
    ("memory on NFS on 6.12, reading", Entry.GUP, WaitsFor.PAGE_CACHE,
     FOLIO + " < handle_mm_fault" + GUP + " < kvm_faultin_pfn < kvm_tdp_page_fault" + RUN),
    ("memory on NFS on 6.12, being written", Entry.GUP, WaitsFor.NFS,
     "folio_wait_bit_common < folio_wait_writeback < nfs_vm_page_mkwrite < do_page_mkwrite"
     " < do_wp_page < __handle_mm_fault < handle_mm_fault" + GUP + " < kvm_faultin_pfn" + RUN),
    ("swapped out on 6.12, anonymous", Entry.GUP, WaitsFor.SWAP,
     "folio_wait_bit_common < __folio_lock_or_retry < do_swap_page < __handle_mm_fault"
     " < handle_mm_fault" + GUP + " < kvm_faultin_pfn" + RUN),
    ("swapped out on 6.12, memfd", Entry.GUP, WaitsFor.SWAP,
     "folio_wait_bit_common < shmem_swapin_folio < shmem_get_folio_gfp < shmem_fault < __do_fault"
     " < do_fault < __handle_mm_fault < handle_mm_fault" + GUP + " < kvm_faultin_pfn" + RUN),
    ("memory.high on 6.12", Entry.SYSCALL, WaitsFor.MEMORY_LIMIT,
     "mem_cgroup_handle_over_high < resume_user_mode_work < xfer_to_guest_mode_handle_work"
     + RUN),
    ("halted, or a worker has the page", Entry.HALTED, WaitsFor.NOTHING,
     "kvm_vcpu_block < kvm_vcpu_halt" + RUN),
    ("runs its guest", Entry.NONE, WaitsFor.NOTHING, "xfer_to_guest_mode_handle_work" + RUN),
    ("preempted on 6.18", Entry.NONE, WaitsFor.NOTHING, "exit_to_user_mode_loop" + SYSCALL),
    ("stopped on 6.18", Entry.SYSCALL, WaitsFor.NOTHING,
     "futex_do_wait < __futex_wait < futex_wait < do_futex < __x64_sys_futex" + SYSCALL),
    ("stopped on 6.1", Entry.SYSCALL, WaitsFor.NOTHING,
     "futex_wait_queue < futex_wait < do_futex < __x64_sys_futex" + SYSCALL),
    # Seen in threads of a test process on 6.18; the first of them wait for no page.
    ("sleep", Entry.SYSCALL, WaitsFor.NOTHING,
     "hrtimer_nanosleep < common_nsleep_timens < __x64_sys_clock_nanosleep" + SYSCALL),
    ("select", Entry.SYSCALL, WaitsFor.NOTHING,
     "poll_schedule_timeout.constprop.0 < do_select < core_sys_select < do_pselect.constprop.0"
     " < __x64_sys_pselect6" + SYSCALL),
    ("poll", Entry.SYSCALL, WaitsFor.NOTHING,
     "poll_schedule_timeout.constprop.0 < do_sys_poll < __x64_sys_poll" + SYSCALL),
    ("epoll", Entry.SYSCALL, WaitsFor.NOTHING, "do_epoll_wait < __x64_sys_epoll_wait" + SYSCALL),
    ("read of a pipe", Entry.SYSCALL, WaitsFor.NOTHING,
     "anon_pipe_read < vfs_read < ksys_read" + SYSCALL),
    ("read of a socket", Entry.SYSCALL, WaitsFor.NOTHING,
     "unix_stream_read_generic < unix_stream_recvmsg < sock_recvmsg < __sys_recvfrom"
     " < __x64_sys_recvfrom" + SYSCALL),
    ("sigwait", Entry.SYSCALL, WaitsFor.NOTHING,
     "do_sigtimedwait.isra.0 < __x64_sys_rt_sigtimedwait" + SYSCALL),
    # A mapped file on FUSE, with and without read-ahead; its server does not answer.
    ("user mode, FUSE, asynchronous", Entry.USER, WaitsFor.PAGE_CACHE,
     FOLIO + " < handle_mm_fault" + FAULT),
    ("user mode, FUSE, synchronous", Entry.USER, WaitsFor.FUSE,
     READAHEAD + " < filemap_fault < __do_fault < do_fault < __handle_mm_fault < handle_mm_fault"
     + FAULT),
    ("read() into it, asynchronous", Entry.UACCESS, WaitsFor.PAGE_CACHE,
     FOLIO + " < handle_mm_fault" + FAULT + " < read_zero < vfs_read < ksys_read" + SYSCALL),
    ("read() into it, without read-ahead", Entry.UACCESS, WaitsFor.FUSE,
     FUSE + " < fuse_do_readfolio.isra.0 < fuse_read_folio < filemap_read_folio < filemap_fault"
     " < __do_fault < do_fault < __handle_mm_fault < handle_mm_fault" + FAULT +
     " < read_zero < vfs_read < ksys_read" + SYSCALL),
    ("MADV_POPULATE_READ", Entry.GUP, WaitsFor.PAGE_CACHE,
     FOLIO + " < handle_mm_fault < __get_user_pages < faultin_page_range < madvise_do_behavior"
     " < do_madvise < __x64_sys_madvise" + SYSCALL),
    ("pread, asynchronous", Entry.SYSCALL, WaitsFor.PAGE_CACHE,
     "folio_wait_bit_common < filemap_get_pages < filemap_read < vfs_read < __x64_sys_pread64"
     + SYSCALL),
    ("pread, synchronous", Entry.SYSCALL, WaitsFor.FUSE,
     READAHEAD + " < filemap_get_pages < filemap_read < vfs_read < __x64_sys_pread64" + SYSCALL),
    # One thread holds mmap_lock: it unmaps a page of that file that must be written first.
    ("the holder", Entry.SYSCALL, WaitsFor.FUSE,
     "folio_wait_bit < folio_wait_writeback < __filemap_fdatawait_range < filemap_fdatawait_range"
     " < __writeback_single_inode < writeback_single_inode < write_inode_now < fuse_vma_close"
     " < remove_vma < vms_complete_munmap_vmas < do_vmi_align_munmap < do_vmi_munmap < __vm_munmap"
     " < __x64_sys_munmap" + SYSCALL),
    ("mmap", Entry.SYSCALL, WaitsFor.LOCK, "vm_mmap_pgoff" + SYSCALL),
    ("brk", Entry.SYSCALL, WaitsFor.LOCK, "__do_sys_brk" + SYSCALL),
    ("fork", Entry.SYSCALL, WaitsFor.LOCK,
     "dup_mmap < copy_process < kernel_clone < __do_sys_clone" + SYSCALL),
    ("mprotect", Entry.SYSCALL, WaitsFor.LOCK, "do_mprotect_pkey < __x64_sys_mprotect" + SYSCALL),
    ("madvise", Entry.SYSCALL, WaitsFor.LOCK,
     "madvise_lock < do_madvise < __x64_sys_madvise" + SYSCALL),
    ("process_vm_readv", Entry.SYSCALL, WaitsFor.LOCK,
     "process_vm_rw_core.constprop.0 < process_vm_rw < __x64_sys_process_vm_readv" + SYSCALL),
    ("read() into new memory", Entry.UACCESS, WaitsFor.LOCK,
     "lock_mm_and_find_vma" + FAULT + " < read_zero < vfs_read < ksys_read" + SYSCALL),
    ("who reads cmdline", Entry.SYSCALL, WaitsFor.LOCK,
     "__access_remote_vm < proc_pid_cmdline_read < vfs_read < ksys_read" + SYSCALL),
    ("who reads smaps", Entry.SYSCALL, WaitsFor.LOCK,
     "m_start < seq_read_iter < seq_read < vfs_read < ksys_read" + SYSCALL),
]  # fmt: skip


@pytest.mark.parametrize("entry, waits_for, text", [each[1:] for each in SEEN],
                         ids=[each[0] for each in SEEN])  # fmt: skip
def test_a_stack_shows_the_entry_and_what_the_thread_waits_for(
    entry: Entry, waits_for: WaitsFor, text: str
) -> None:
    stack = text.split(" < ")
    assert threads.entry(stack, X86) is entry
    assert threads.waits_for(stack, X86) is waits_for


READ = [
    # Taken from the kernel's source, because they could not be provoked.
    (Entry.GUP, WaitsFor.SWAP,
     "folio_lock_or_retry < do_swap_page < __handle_mm_fault" + GUP + RUN),
    (Entry.GUP, WaitsFor.SWAP,
     "folio_wait_bit_common < shmem_swapin_folio < shmem_get_folio_gfp < shmem_fault" + GUP + RUN),
    (Entry.GUP, WaitsFor.PAGE_CACHE,
     "balance_dirty_pages < balance_dirty_pages_ratelimited_flags < fault_dirty_shared_page" + GUP),
    (Entry.GUP, WaitsFor.NFS,
     "folio_wait_bit_common < folio_wait_writeback < nfs_wb_folio < nfs_vm_page_mkwrite" + GUP),
    (Entry.SYSCALL, WaitsFor.NFS,
     "rpc_wait_bit_killable < rpc_wait_for_completion_task < nfs4_proc_getattr" + SYSCALL),
    (Entry.SYSCALL, WaitsFor.LOCK,
     "__synchronize_srcu.part.0 < synchronize_srcu_expedited < kvm_swap_active_memslots"
     " < kvm_set_memslot < kvm_vm_ioctl" + SYSCALL),
    (Entry.USER, WaitsFor.LOCK, "do_user_addr_fault" + FAULT),
    (Entry.GUP, WaitsFor.LOCK, "hva_to_pfn < __kvm_faultin_pfn" + RUN),
    (Entry.GPC, WaitsFor.USERFAULT, USERFAULT + GUP + " < hva_to_pfn_retry < kvm_xen_set_evtchn"),
    # Kernels whose stacks include the scheduler's functions.
    (Entry.SYSCALL, WaitsFor.LOCK,
     "__schedule < schedule < schedule_preempt_disabled < rwsem_down_write_slowpath < down_write"
     " < vm_mmap_pgoff" + SYSCALL),
    (Entry.NONE, WaitsFor.NOTHING, ""),
]  # fmt: skip


@pytest.mark.parametrize("entry, waits_for, text", READ)
def test_a_stack_from_the_kernels_source_has_its_meaning(
    entry: Entry, waits_for: WaitsFor, text: str
) -> None:
    stack = [frame for frame in text.split(" < ") if frame]
    assert threads.entry(stack, X86) is entry
    assert threads.waits_for(stack, X86) is waits_for


@pytest.mark.parametrize(
    "entry, text",
    [
        (Entry.USER, "handle_userfault < handle_mm_fault < do_page_fault < do_translation_fault"
         " < do_mem_abort < el0_da < el0t_64_sync_handler < el0t_64_sync"),
        (Entry.UACCESS, "handle_userfault < handle_mm_fault < do_page_fault < do_translation_fault"
         " < do_mem_abort < el1_abort < el1h_64_sync_handler < el1h_64_sync < __arch_copy_to_user"
         " < kvm_write_guest_page < kvm_arch_vcpu_ioctl_run < kvm_vcpu_ioctl < __arm64_sys_ioctl"
         " < invoke_syscall < el0_svc < el0t_64_sync_handler < el0t_64_sync"),
        (Entry.GUP, "handle_userfault < handle_mm_fault < __get_user_pages < hva_to_pfn"
         " < kvm_s2_fault_pin_pfn < kvm_handle_guest_abort < kvm_arch_vcpu_ioctl_run"),
        (Entry.NONE, "kvm_arch_vcpu_ioctl_run < kvm_vcpu_ioctl < __arm64_sys_ioctl"
         " < invoke_syscall < el0_svc_common < do_el0_svc < el0_svc < el0t_64_sync_handler"
         " < el0t_64_sync"),
    ],
)  # fmt: skip
def test_arm_has_its_own_frames_of_faults(entry: Entry, text: str) -> None:
    assert threads.entry(text.split(" < "), ARCHITECTURES["aarch64"]) is entry


def test_suffixes_of_cloned_functions_are_ignored() -> None:
    for suffix in (".isra.0", ".constprop.0", ".part.0", ".cold", ".isra.0.cold"):
        stack = [f"handle_userfault{suffix}", f"hva_to_pfn{suffix}"]
        assert threads.entry(stack, X86) is Entry.GUP
        assert threads.waits_for(stack, X86) is WaitsFor.USERFAULT


def test_poll_and_futex_are_recognized() -> None:
    polls = [name for name, _, _, text in SEEN if stacks.polls(text.split(" < "))]
    futex = [name for name, _, _, text in SEEN if stacks.in_futex(text.split(" < "))]
    assert polls == ["select", "poll", "epoll"]
    assert futex == ["stopped on 6.18", "stopped on 6.1"]
