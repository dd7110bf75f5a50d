# SPDX-License-Identifier: BSD-3-Clause
"""Which feature of KVM needs the page that a vCPU waits for."""

from __future__ import annotations

import pytest

from bench_lib import threads
from bench_lib.architecture import ARCHITECTURES
from bench_lib.explain import judged, meaning, shared, show
from bench_lib.explain.meaning import Meaning
from bench_lib.explain.vmm import Seen, Vmm
from bench_lib.record import Role, WaitsFor

X86, ARM = ARCHITECTURES["x86_64"], ARCHITECTURES["aarch64"]

RUN = " < kvm_arch_vcpu_ioctl_run < kvm_vcpu_ioctl < __x64_sys_ioctl < do_syscall_64"
FAULT = "handle_userfault < __handle_mm_fault < handle_mm_fault < exc_page_fault"
UACCESS = FAULT + " < asm_exc_page_fault"
GPC = "handle_userfault < __get_user_pages < hva_to_pfn < __kvm_gpc_refresh < __kvm_gpc_activate"
INLINED = UACCESS + RUN
STEAL_TIME = UACCESS + " < record_steal_time" + RUN


def vcpu(
    stack: str, *, called: bool = False, cpu: float = 0.0, awake: float = 0.0, number: int = 0
) -> Seen:
    """A vCPU thread that sleeps, or one that spins if it is called."""
    frames = tuple(stack.split(" < "))
    return Seen(
        10 + number, Role.VCPU, number, f"CPU {number}/KVM", "R" if called else "S",
        "0" if called else frames[0], frames, threads.entry(frames, X86),
        threads.waits_for(frames, X86), ("SIGUSR1",) if called else (), called,
        still=not called, cpu_share=cpu, awake_share=awake,
    )  # fmt: skip


@pytest.mark.parametrize(
    "stack, function, feature",
    [
        (STEAL_TIME, "record_steal_time", "kvm-steal-time"),
        # Seen on 7.2 with kvm-steal-time=off.
        (
            UACCESS + " < rep_movs_alternative < kvm_read_guest_offset_cached"
            " < kvm_arch_can_dequeue_async_page_present < kvm_check_async_pf_completion" + RUN,
            "kvm_arch_can_dequeue_async_page_present",
            "kvm-asyncpf",
        ),
        # The compiler has inlined a part of that.
        (
            UACCESS + " < kvm_read_guest_offset_cached < kvm_check_async_pf_completion" + RUN,
            "kvm_check_async_pf_completion",
            "kvm-asyncpf",
        ),
        (GPC + " < kvm_set_msr_common < msr_io" + RUN, "kvm_set_msr_common", "kvmclock"),
        (GPC + " < kvm_guest_time_update < vcpu_enter_guest" + RUN, "kvm_guest_time_update",
         "kvmclock"),
        (UACCESS + " < kvm_write_guest_cached < apic_sync_pv_eoi_to_guest" + RUN,
         "apic_sync_pv_eoi_to_guest", "kvm-pv-eoi"),
    ],
)  # fmt: skip
def test_the_function_in_the_stack_tells_the_feature(
    stack: str, function: str, feature: str
) -> None:
    found = shared.find(vcpu(stack), X86)
    assert found is not None
    assert found.feature == feature
    assert found.sentence.endswith(f"({function})")
    assert f"-cpu MODEL,{feature}=off" in found.avoid


@pytest.mark.parametrize(
    "stack",
    [
        INLINED,
        UACCESS + " < kvm_read_guest_offset_cached" + RUN,
        UACCESS + " < rep_movs_alternative < vcpu_enter_guest" + RUN,
    ],
)
def test_without_the_function_all_features_come_into_question(stack: str) -> None:
    found = shared.find(vcpu(stack), X86)
    assert found is not None
    assert found.feature is None
    assert "most likely for steal time" in found.sentence
    assert found.avoid == (
        "Start guests with -cpu MODEL,kvm-steal-time=off,kvm-asyncpf=off,"
        "kvm-asyncpf-int=off,kvmclock=off,kvm-pv-eoi=off."
    )


@pytest.mark.parametrize(
    "stack",
    [
        # A guest's own access, the emulator, and a page that KVM keeps mapped for Xen.
        "handle_userfault < __get_user_pages < hva_to_pfn < kvm_mmu_page_fault" + RUN,
        UACCESS + " < __kvm_read_guest_page < kvm_vcpu_read_guest < read_emulate"
        " < emulator_read_write < x86_emulate_insn < x86_emulate_instruction" + RUN,
        GPC + " < kvm_xen_set_evtchn_fast < kvm_xen_set_evtchn" + RUN,
    ],
)
def test_a_page_that_is_not_shared_for_a_feature_is_not_taken_for_one(stack: str) -> None:
    assert shared.find(vcpu(stack), X86) is None


def test_no_feature_of_one_architecture_is_named_on_another() -> None:
    assert shared.find(vcpu(STEAL_TIME), ARM) is None


def _explained(*seen: Seen) -> tuple[Meaning, str]:
    vmm = Vmm(1, "web", "qemu", 0, seen)
    (only,) = meaning.explain(vmm)
    return only, " ".join("\n".join(show.lines(vmm)).split())


def test_an_operator_reads_what_a_spinning_guest_waits_for_and_what_helps() -> None:
    only, text = _explained(vcpu(STEAL_TIME, called=True, cpu=0.98, awake=1.0))
    assert only.sentence == (
        "spins (98% of a CPU) with SIGUSR1 waiting, because the kernel's fault handler retries "
        "forever: KVM writes the vCPU's steal time, which is how long it had to wait for a CPU, "
        "into a page of the guest (record_steal_time), and this page is missing: after the switch "
        "of a postcopy migration only the source can send it, and the source has not sent it."
    )
    assert {"stop", "Ctrl-C", "SIGTERM"} <= set(only.hangs)
    assert "SIGKILL" in only.works
    assert "kill -CONT" in only.free[0]
    assert "migrate-recover" in only.free[1]
    assert "to avoid it Start guests with -cpu MODEL,kvm-steal-time=off." in text


def test_a_shared_page_in_a_file_waits_for_the_file_system() -> None:
    stack = "folio_wait_bit_common < filemap_fault < handle_mm_fault < asm_exc_page_fault"
    only, _ = _explained(vcpu(f"{stack} < record_steal_time{RUN}"))
    assert "steal time" in only.sentence
    assert "the file system or device" in only.sentence
    assert "migration" not in only.sentence


@pytest.mark.parametrize("stack, spins", [(INLINED, True), (RUN.removeprefix(" < "), False)])
def test_on_a_busy_host_a_thread_in_a_fault_spins_with_little_cpu_time(
    stack: str, spins: bool
) -> None:
    """Two CPUs are shared by many threads that spin. A called thread that runs its guest, and gets
    no CPU, looks the same but for its stack."""
    assert judged.spins(vcpu(stack, called=True, cpu=0.08, awake=0.99)) is spins


def test_a_called_thread_that_sleeps_in_a_fault_does_not_spin() -> None:
    seen = vcpu(INLINED, called=True, cpu=0.01, awake=0.01)
    assert not judged.spins(seen)
    assert seen.waits_for is WaitsFor.USERFAULT
