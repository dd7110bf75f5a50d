# SPDX-License-Identifier: BSD-3-Clause
"""What KVM offers to guests on this host."""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from bench_lib.host.device import DEVICE
from bench_lib.kvm.programs import Program

KVM_CHECK_EXTENSION = 0xAE03
KVM_GET_SUPPORTED_CPUID = 0xC008AE05
KVM_CAP_PRE_FAULT_MEMORY = 236
CPUID_FEATURES = 0x40000001
"""KVM's leaf of CPUID whose %eax has the paravirtual features."""

VIRTUAL_APIC = (
    Path("/sys/module/kvm_intel/parameters/enable_apicv"),
    Path("/sys/module/kvm_amd/parameters/avic"),
)
"""Parameters of KVM's modules: whether the processor virtualizes the local APIC (APICv, AVIC)."""


@dataclass(frozen=True)
class Offer:
    """What programs may need of KVM.

    :ivar features: the paravirtual features, as a mask of the bits of `programs.Feature`.
    :ivar pre_faults: whether there is KVM_PRE_FAULT_MEMORY.
    :ivar virtual_apic: whether the processor virtualizes the local APIC.
    """

    features: int
    pre_faults: bool
    virtual_apic: bool

    def lacks(self, program: Program) -> str | None:
        """Return in words what a program needs and KVM lacks, or None if it lacks nothing."""
        if program.pre_fault and not self.pre_faults:
            return (
                "This KVM has no KVM_PRE_FAULT_MEMORY, which needs Linux 6.12 and a processor with "
                "nested page tables (EPT or NPT)."
            )
        if program.feature and not self.features >> program.feature.bit & 1:
            return f"This KVM does not offer {program.feature.name} to guests."
        if program.interrupted and self.virtual_apic:
            return (
                "The processor delivers interrupts without KVM here; load kvm_intel with "
                "enable_apicv=0, or kvm_amd with avic=0."
            )
        return None


def here() -> Offer:
    """Return what KVM offers on this host."""
    kvm = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        pre_faults = fcntl.ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_PRE_FAULT_MEMORY)
        virtual = any(each.exists() and _is_on(each) for each in VIRTUAL_APIC)
        return Offer(_features(kvm), pre_faults > 0, virtual)
    finally:
        os.close(kvm)


def _is_on(parameter: Path) -> bool:
    return parameter.read_text().strip() in {"Y", "1"}


def _features(kvm: int) -> int:
    """Return the paravirtual features that KVM offers, as a mask."""
    for leaf, _, _, eax in struct.iter_unpack("<4I24x", cpuid(kvm)[8:]):
        if leaf == CPUID_FEATURES:
            return int(eax)
    return 0


def cpuid(kvm: int) -> bytearray:
    """Return all of CPUID that KVM supports, as a struct kvm_cpuid2, which has their number."""
    entries = 256
    buffer = bytearray(struct.pack("<II", entries, 0) + bytes(40 * entries))
    fcntl.ioctl(kvm, KVM_GET_SUPPORTED_CPUID, buffer)
    return buffer
