"""What differs between CPU architectures."""

from __future__ import annotations

import os
from dataclasses import dataclass

from bench_lib.errors import UnknownArchitecture


@dataclass(frozen=True)
class Architecture:
    """One architecture, as Linux shows it in kernel stacks.

    :ivar name: as `uname -m` prints it.
    :ivar fault_frames: functions that handle a page fault before the common code does.
    :ivar exception_frames: the way from the processor's exception to those, in user and kernel
        mode alike.
    :ivar run_frames: what a vCPU that runs its guest shows, from KVM_RUN outwards.
    """

    name: str
    fault_frames: frozenset[str]
    exception_frames: frozenset[str]
    run_frames: frozenset[str]


_KVM_RUN = frozenset(
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

ARCHITECTURES = {
    each.name: each
    for each in (
        Architecture(
            "x86_64",
            fault_frames=frozenset(
                {"do_user_addr_fault", "exc_page_fault", "asm_exc_page_fault"}
                # Before v5.8.
                | {"__do_page_fault", "do_page_fault", "page_fault", "async_page_fault"}
            ),
            exception_frames=frozenset(),
            run_frames=_KVM_RUN
            | {"vmx_vcpu_run", "vmx_vcpu_enter_exit", "svm_vcpu_run", "svm_vcpu_enter_exit"}
            | {"vt_vcpu_run", "pvm_vcpu_run"}
            | {"__x64_sys_ioctl", "x64_sys_call", "do_syscall_64"}
            | {"entry_SYSCALL_64_after_hwframe"},
        ),
        Architecture(
            "aarch64",
            fault_frames=frozenset(
                {"do_page_fault", "do_translation_fault", "do_mem_abort"}
                | {"el0_da", "el0_ia", "el1_abort"}
            ),
            exception_frames=frozenset(
                {"el0t_64_sync_handler", "el0t_64_sync", "el1h_64_sync_handler", "el1h_64_sync"}
            ),
            run_frames=_KVM_RUN
            | {"kvm_arm_vcpu_enter_exit", "do_notify_resume"}
            | {"__arm64_sys_ioctl", "invoke_syscall", "el0_svc_common", "do_el0_svc", "el0_svc"}
            | {"el0t_64_sync_handler", "el0t_64_sync"},
        ),
    )
}


def here() -> Architecture:
    """The architecture of this machine.

    :raise UnknownArchitecture: it is none of those in the table.
    """
    name = os.uname().machine
    if name not in ARCHITECTURES:
        raise UnknownArchitecture(
            f"kickbench does not know the architecture {name}; it knows {', '.join(ARCHITECTURES)}."
        )
    return ARCHITECTURES[name]
