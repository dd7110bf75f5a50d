# SPDX-License-Identifier: BSD-3-Clause
"""What the probe's guests run, and what each needs."""

from __future__ import annotations

from dataclasses import dataclass

PAGE = 4096
HUGE_PAGE = 2 << 20

TARGET = HUGE_PAGE
"""The guest-physical address of the page that is touched, at the start of its own memory slot."""

PORT = 0x80

# asm/kvm_para.h, and Documentation/virt/kvm/x86/msr.rst and cpuid.rst
MSR_KVM_SYSTEM_TIME_NEW, MSR_KVM_ASYNC_PF_EN, MSR_KVM_STEAL_TIME = (
    0x4B564D01,
    0x4B564D02,
    0x4B564D03,
)
MSR_KVM_PV_EOI_EN, MSR_KVM_ASYNC_PF_INT = 0x4B564D04, 0x4B564D06
ENABLE, DELIVERY_AS_INTERRUPT = 1, 8
VECTOR = 0x40
"""The vector of the interrupts that a program asks for."""


@dataclass(frozen=True)
class Feature:
    """A paravirtual feature of KVM.

    :ivar bit: its bit in %eax of KVM's CPUID leaf 0x40000001.
    """

    name: str
    bit: int


@dataclass(frozen=True)
class Program:
    """What the guest runs.

    :ivar code: 64-bit code, with `TARGET` in %rdi and %rsi and a port in %dx. It runs at CPL 3
        unless `privileged`.
    :ivar interrupts: whether the guest has interrupts enabled and in-kernel interrupt controllers.
    :ivar privileged: whether the code runs at CPL 0.
    :ivar feature: a feature that KVM must offer.
    :ivar msrs: numbers and values of MSRs. They are set before each run by ioctl, which is how QEMU
        loads a vCPU that another host has sent.
    :ivar interrupted: whether an interrupt is requested of the local APIC before each run.
    :ivar pre_fault: whether the vCPU does not run, but KVM is asked to map `TARGET`.
    """

    code: bytes
    interrupts: bool = False
    privileged: bool = False
    feature: Feature | None = None
    msrs: tuple[tuple[int, int], ...] = ()
    interrupted: bool = False
    pre_fault: bool = False


READ = Program(bytes.fromhex("488b07ebfb"))
"""movq (%rdi), %rax in a loop."""
READ_AND_PRINT = Program(bytes.fromhex("8a07eeebfb"))
"""movb (%rdi), %al; outb %al, (%dx) in a loop: KVM_RUN returns with what the guest has read."""
WRITE = Program(bytes.fromhex("488907ebfb"))
"""movq %rax, (%rdi) in a loop."""
WRITE_WITH_INTERRUPTS = Program(WRITE.code, interrupts=True)
STRING_OUT = Program(bytes.fromhex("6eebfd"))
"""outsb in a loop: KVM itself reads the byte from guest memory, on every processor."""
SPIN = Program(bytes.fromhex("ebfe"))
"""A jmp to itself."""
KVMCLOCK = Program(
    bytes.fromhex("b9014d564b b801002000 31d2 0f30 ebf0"),
    privileged=True,
    feature=Feature("kvmclock", 3),
)
"""movl $MSR_KVM_SYSTEM_TIME_NEW, %ecx; movl $TARGET | ENABLE, %eax; xorl %edx, %edx; wrmsr in a
loop. KVM maps the page while it handles the wrmsr.

QEMU sets this MSR by ioctl. The guest does it here, because KVM unblocks the signals of a wake
during KVM_RUN only: in another ioctl they would stay blocked, and no kernel could be woken."""
STEAL_TIME = Program(
    SPIN.code, feature=Feature("steal time", 5), msrs=((MSR_KVM_STEAL_TIME, TARGET | ENABLE),)
)
"""KVM writes the page at each entry into the guest."""
PV_EOI = Program(
    SPIN.code,
    interrupts=True,
    feature=Feature("PV EOI", 6),
    msrs=((MSR_KVM_PV_EOI_EN, TARGET | ENABLE),),
    interrupted=True,
)
"""KVM writes the page when it delivers an interrupt, before it enters the guest."""
ASYNC_PF_DATA = Program(
    SPIN.code,
    interrupts=True,
    feature=Feature("asynchronous page faults by interrupt", 14),
    msrs=(
        (MSR_KVM_ASYNC_PF_INT, VECTOR),
        (MSR_KVM_ASYNC_PF_EN, TARGET | DELIVERY_AS_INTERRUPT | ENABLE),
    ),
)
"""When the MSR is set, KVM wakes all that wait for a page, and so reads from the page of the
guest whether it may tell the guest that they did."""
PRE_FAULT = Program(SPIN.code, pre_fault=True)

PROGRAMS = {
    "read": READ,
    "print": READ_AND_PRINT,
    "write": WRITE,
    "interrupts": WRITE_WITH_INTERRUPTS,
    "string": STRING_OUT,
    "spin": SPIN,
    "kvmclock": KVMCLOCK,
    "steal-time": STEAL_TIME,
    "pv-eoi": PV_EOI,
    "async-pf-data": ASYNC_PF_DATA,
    "pre-fault": PRE_FAULT,
}
"""Every program, by the name that the worker takes."""
