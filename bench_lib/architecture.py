# SPDX-License-Identifier: BSD-3-Clause
"""The differences between CPU architectures, in one row per architecture.

No other module depends on an architecture. A row has two kinds of facts. Every row has those that
`kickbench explain` needs for any running VMM. The facts about guests and labs, which kickbench
starts itself, are in `Trials`. A row has no `Trials` until there are guest images for its
architecture.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

from bench_lib.errors import UnknownArchitecture


@dataclass(frozen=True)
class KvmModule:
    """The KVM module for one kind of processor.

    :ivar flag: the flag in /proc/cpuinfo of the processors that the module supports; None if it
        needs no flag.
    :ivar nests: whether the module supports nesting (parameter `nested`).
    """

    name: str
    flag: str | None
    nests: bool


@dataclass(frozen=True)
class Trials:
    """The facts about guests and labs.

    :ivar qemu: the QEMU program; tools/packages lists its packages.
    :ivar machine: QEMU's machine type (-machine) of guests and labs.
    :ivar cpu: QEMU's CPU model (-cpu) of guests.
    :ivar huge_page_mib: the size of the huge pages that can back a guest's memory.
    :ivar kernel_image: the path of the image that QEMU boots in a built kernel tree.
    :ivar debian: Debian's name of the architecture.
    """

    qemu: str
    machine: str
    cpu: str
    huge_page_mib: int
    kernel_image: str
    debian: str


@dataclass(frozen=True)
class SharedPage:
    """A paravirtual feature for which a guest shares a page with KVM.

    :ivar feature: the feature's name in QEMU's -cpu.
    :ivar use: what KVM does with the page, in words.
    :ivar functions: functions of KVM that touch the page and do nothing else.
    :ivar mapped_by: functions that map the page, if it is one that KVM keeps mapped.
    """

    feature: str
    use: str
    functions: frozenset[str]
    mapped_by: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Architecture:
    """One CPU architecture.

    :ivar name: the name as in uname(2).
    :ivar fault_frames: functions that handle a page fault before the common code does.
    :ivar exception_frames: functions between the processor's exception and `fault_frames`, for
        faults from user mode and from kernel mode.
    :ivar run_frames: functions in the stack of a vCPU thread that runs its guest, from KVM_RUN
        outwards.
    :ivar shared_pages: the features for which a guest shares pages with KVM.
    :ivar userfaultfd: the number of the system call userfaultfd(2).
    :ivar kvm_modules: KVM's modules in the order in which kickbench looks for them; empty if KVM is
        not a module.
    :ivar trials: the facts about guests and labs; None if kickbench has no guests for it.
    """

    name: str
    fault_frames: frozenset[str]
    exception_frames: frozenset[str]
    run_frames: frozenset[str]
    shared_pages: tuple[SharedPage, ...]
    userfaultfd: int
    kvm_modules: tuple[KvmModule, ...]
    trials: Trials | None


# From virt/kvm/kvm_main.c, KVM's code for each architecture, and the generic entry code through
# which a vCPU returns to the guest.
_RUN_FRAMES = frozenset(
    {
        "kvm_vcpu_ioctl",
        "kvm_arch_vcpu_ioctl_run",
        "vcpu_run",
        "vcpu_enter_guest",
        "xfer_to_guest_mode_handle_work",
        "xfer_to_guest_mode_work",
        "exit_to_user_mode_loop",
        "exit_to_user_mode_prepare",
        "syscall_exit_to_user_mode",
    }
)

X86_64 = Architecture(
    name="x86_64",
    # arch/x86/entry/entry_64.S and arch/x86/mm/fault.c. The second line is for Linux before 5.8.
    fault_frames=frozenset(
        {"do_user_addr_fault", "exc_page_fault", "asm_exc_page_fault"}
        | {"__do_page_fault", "do_page_fault", "page_fault", "async_page_fault"}
    ),
    exception_frames=frozenset(),
    run_frames=_RUN_FRAMES
    | {"vmx_vcpu_run", "vmx_vcpu_enter_exit", "svm_vcpu_run", "svm_vcpu_enter_exit"}
    | {"vt_vcpu_run", "pvm_vcpu_run"}
    | {"__x64_sys_ioctl", "x64_sys_call", "do_syscall_64", "entry_SYSCALL_64_after_hwframe"},
    # arch/x86/kvm/x86.c and arch/x86/kvm/lapic.c, Linux 6.1 to 7.3.
    shared_pages=(
        SharedPage(
            "kvm-steal-time",
            "KVM writes the vCPU's steal time, which is how long it had to wait for a CPU, into a "
            "page of the guest",
            frozenset({"record_steal_time", "kvm_steal_time_set_preempted"}),
        ),
        SharedPage(
            "kvm-asyncpf",
            "KVM keeps the state of asynchronous page faults in a page of the guest",
            frozenset(
                {"kvm_check_async_pf_completion", "kvm_arch_can_dequeue_async_page_present"}
                | {"kvm_arch_async_page_present", "kvm_arch_async_page_not_present"}
                | {"kvm_can_deliver_async_pf", "apf_pageready_slot_free", "apf_put_user_ready"}
                | {"apf_put_user_notpresent"}
            ),
        ),
        SharedPage(
            "kvmclock",
            "KVM keeps the time of the guest's paravirtual clock (kvmclock) in a page of the guest",
            frozenset(
                {"kvm_guest_time_update", "kvm_setup_guest_pvclock", "kvm_setup_pvclock_page"}
                | {"kvm_write_system_time"}
            ),
            frozenset({"kvm_set_msr_common"}),
        ),
        SharedPage(
            "kvm-pv-eoi",
            "KVM keeps the state of an interrupt (PV EOI) in a page of the guest",
            frozenset(
                {"pv_eoi_get_pending", "pv_eoi_set_pending", "pv_eoi_clr_pending"}
                | {"pv_eoi_test_and_clr_pending", "pv_eoi_put_user", "pv_eoi_get_user"}
                | {"apic_sync_pv_eoi_to_guest", "apic_sync_pv_eoi_from_guest"}
            ),
        ),
    ),
    # arch/x86/entry/syscalls/syscall_64.tbl
    userfaultfd=323,
    kvm_modules=(
        KvmModule("kvm_intel", "vmx", nests=True),
        KvmModule("kvm_amd", "svm", nests=True),
        # This module is for virtual machines whose processor has neither flag.
        KvmModule("kvm_pvm", None, nests=False),
    ),
    trials=Trials(
        qemu="qemu-system-x86_64",
        # Every version of QEMU has this machine type.
        machine="pc",
        # -cpu host does not work with every KVM: it aborts with kvm_pvm, which does not offer pni
        # either.
        cpu="qemu64,-pni",
        huge_page_mib=2,
        kernel_image="arch/x86/boot/bzImage",
        debian="amd64",
    ),
)

AARCH64 = Architecture(
    name="aarch64",
    # arch/arm64/mm/fault.c and arch/arm64/kernel/entry-common.c.
    fault_frames=frozenset(
        {"do_page_fault", "do_translation_fault", "do_mem_abort"}
        | {"el0_da", "el0_ia", "el1_abort"}
    ),
    exception_frames=frozenset(
        {"el0t_64_sync_handler", "el0t_64_sync", "el1h_64_sync_handler", "el1h_64_sync"}
    ),
    run_frames=_RUN_FRAMES
    | {"kvm_arm_vcpu_enter_exit", "do_notify_resume"}
    | {"__arm64_sys_ioctl", "invoke_syscall", "el0_svc_common", "do_el0_svc", "el0_svc"}
    | {"el0t_64_sync_handler", "el0t_64_sync"},
    shared_pages=(),
    # include/uapi/asm-generic/unistd.h
    userfaultfd=282,
    # KVM is built into the kernel.
    kvm_modules=(),
    trials=None,
)

ARCHITECTURES = {each.name: each for each in (X86_64, AARCH64)}


def find() -> Architecture | None:
    """The row of this machine's architecture; None if kickbench does not know it."""
    return ARCHITECTURES.get(platform.machine())


def here() -> Architecture:
    """The row of this machine's architecture.

    :raise UnknownArchitecture: kickbench does not know it.
    """
    row = find()
    if row is None:
        raise UnknownArchitecture(
            f"kickbench does not know the CPU architecture {platform.machine()}; run it on "
            f"{' or '.join(ARCHITECTURES)}."
        )
    return row


def for_trials() -> Trials:
    """The facts about guests and labs on this machine.

    :raise UnknownArchitecture: kickbench has no guests for this machine's architecture.
    """
    row = here()
    if row.trials is None:
        able = " or ".join(each.name for each in ARCHITECTURES.values() if each.trials)
        raise UnknownArchitecture(
            f"kickbench has no guest images for {row.name}; run trials, the probe and the lab on "
            f"{able}."
        )
    return row.trials


def qemu_program() -> str:
    """The QEMU program for this machine. For an unknown architecture, QEMU's usual name is used."""
    row = find()
    trials = None if row is None else row.trials
    return f"qemu-system-{platform.machine()}" if trials is None else trials.qemu
