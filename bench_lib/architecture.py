# SPDX-License-Identifier: BSD-3-Clause
"""What differs between CPU architectures: one row each, and nowhere else a word of it.

Two kinds of facts are in a row. Some hold for any running VMM, and every row has them. Others hold
for what kickbench starts itself (guests and labs) and are `Trials`; a row is without them until
there are guest images for its architecture.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

from bench_lib.errors import UnknownArchitecture


@dataclass(frozen=True)
class KvmModule:
    """KVM for one kind of processor.

    :ivar flag: the flag in /proc/cpuinfo of a processor that it is for; None where it needs none.
    :ivar nests: whether its guests can be allowed to use KVM themselves (parameter `nested`).
    """

    name: str
    flag: str | None
    nests: bool


@dataclass(frozen=True)
class Trials:
    """What trials and the lab start.

    :ivar qemu: QEMU's program; tools/packages has the packages that it is in.
    :ivar machine: QEMU's name for the machine that guests are. :ivar cpu: the same for their CPU.
    :ivar huge_page_mib: the size of the huge pages that a guest's memory may be made of.
    :ivar kernel_image: where a kernel tree that has been built has the image that QEMU boots.
    :ivar debian: Debian's name for the architecture.
    """

    qemu: str
    machine: str
    cpu: str
    huge_page_mib: int
    kernel_image: str
    debian: str


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    :ivar name: as uname(2) calls it.
    :ivar fault_frames: functions that handle a page fault before the common code does.
    :ivar exception_frames: the way from the processor's exception to those, in user and kernel
        mode alike.
    :ivar run_frames: what a vCPU that runs its guest shows, from KVM_RUN outwards.
    :ivar userfaultfd: the number of the system call.
    :ivar kvm_modules: in the order in which they are looked for; none where KVM is no module.
    :ivar trials: None where kickbench can start no guests.
    """

    name: str
    fault_frames: frozenset[str]
    exception_frames: frozenset[str]
    run_frames: frozenset[str]
    userfaultfd: int
    kvm_modules: tuple[KvmModule, ...]
    trials: Trials | None


# virt/kvm/kvm_main.c, each architecture's own part, and the way back into the guest.
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
    # arch/x86/entry/entry_64.S and arch/x86/mm/fault.c; the second line before Linux 5.8.
    fault_frames=frozenset(
        {"do_user_addr_fault", "exc_page_fault", "asm_exc_page_fault"}
        | {"__do_page_fault", "do_page_fault", "page_fault", "async_page_fault"}
    ),
    exception_frames=frozenset(),
    run_frames=_RUN_FRAMES
    | {"vmx_vcpu_run", "vmx_vcpu_enter_exit", "svm_vcpu_run", "svm_vcpu_enter_exit"}
    | {"vt_vcpu_run", "pvm_vcpu_run"}
    | {"__x64_sys_ioctl", "x64_sys_call", "do_syscall_64", "entry_SYSCALL_64_after_hwframe"},
    # arch/x86/entry/syscalls/syscall_64.tbl
    userfaultfd=323,
    kvm_modules=(
        KvmModule("kvm_intel", "vmx", nests=True),
        KvmModule("kvm_amd", "svm", nests=True),
        # For virtual machines whose processor offers neither.
        KvmModule("kvm_pvm", None, nests=False),
    ),
    trials=Trials(
        qemu="qemu-system-x86_64",
        # Every QEMU has it, the oldest ones as well.
        machine="pc",
        # -cpu host does not work on every KVM (kvm_pvm aborts it); pni is not offered by kvm_pvm.
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
    # include/uapi/asm-generic/unistd.h
    userfaultfd=282,
    # KVM is built into the kernel.
    kvm_modules=(),
    trials=None,
)

ARCHITECTURES = {each.name: each for each in (X86_64, AARCH64)}


def find() -> Architecture | None:
    """This machine's row; None where there is none."""
    return ARCHITECTURES.get(platform.machine())


def here() -> Architecture:
    """This machine's row.

    :raise UnknownArchitecture: there is none.
    """
    row = find()
    if row is None:
        raise UnknownArchitecture(
            f"kickbench does not know the architecture {platform.machine()}; it knows "
            f"{' and '.join(ARCHITECTURES)}. Run it on one of them."
        )
    return row


def for_trials() -> Trials:
    """What trials and the lab start on this machine.

    :raise UnknownArchitecture: kickbench can start no guests on it.
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
    """QEMU's program for this machine. Without a row it is named as QEMU names all of them."""
    row = find()
    trials = None if row is None else row.trials
    return f"qemu-system-{platform.machine()}" if trials is None else trials.qemu
