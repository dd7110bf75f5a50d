# SPDX-License-Identifier: BSD-3-Clause
"""A virtual machine with one vCPU, made with the ioctls of /dev/kvm alone.

linux/kvm.h and Documentation/virt/kvm/api.rst have the numbers and layouts.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import struct
from collections.abc import Iterable

from bench_lib.errors import KvmUnavailable
from bench_lib.host.device import DEVICE, KVM_CREATE_VCPU, KVM_CREATE_VM
from bench_lib.kvm import offered
from bench_lib.kvm.programs import HUGE_PAGE, PAGE, PORT, TARGET, VECTOR, Program
from bench_lib.kvm.timed import IOCTL, Clock, Timed

KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_SET_TSS_ADDR = 0xAE47
KVM_CREATE_IRQCHIP = 0xAE60
KVM_RUN = 0xAE80
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84
KVM_SET_MSRS = 0x4008AE89
KVM_SET_SIGNAL_MASK = 0x4004AE8B
KVM_GET_LAPIC = 0x8400AE8E
KVM_SET_LAPIC = 0x4400AE8F
KVM_SET_VCPU_EVENTS = 0x4040AEA0
KVM_PRE_FAULT_MEMORY = 0xC040AED5
KVM_SET_CPUID2 = 0x4008AE90

KVM_EXIT_IO = 2

# asm/apicdef.h. The spurious-interrupt register has a vector and the bit that enables the APIC.
APIC_SPIV, APIC_SPIV_ENABLED, APIC_IRR = 0xF0, 0x1FF, 0x200

CODE, PML4, PDPT, PAGE_DIRECTORY = 0x1000, 0x2000, 0x3000, 0x4000
LOW_BYTES = 0x10000
"""The size of the memory that is present: code and page tables. It starts at guest-physical 0; all
addresses here are guest-physical."""

TSS = 0x40000000
"""An unused address where KVM on Intel processors may put the TSS that it needs for real mode."""

# x86 page table bits. Accessed and dirty are set, so that the processor never writes the tables.
TABLE, LEAF = 0x27, 0xE7
CR0_PE_ET_PG = 0x80000011
CR4_PAE = 0x20
EFER_LME_LMA = 0x500
RFLAGS_IOPL3, RFLAGS_IF = 0x3002, 0x200

EXTRA_SLOT, EXTRA = 2, 2 * HUGE_PAGE
"""A memory slot that can be added while the vCPU runs, and its address."""


def _segment(selector: int, kind: int, *, dpl: int, long_mode: int, code_or_data: int = 1) -> bytes:
    # base, limit, selector, type, present, dpl, db, s, l, g, avl, unusable, padding
    return struct.pack(
        "<QIH10B", 0, 0xFFFFFFFF, selector, kind, 1, dpl, 1 - long_mode, code_or_data, long_mode,
        1, 0, 0, 0,
    )  # fmt: skip


class VirtualMachine:
    """A virtual machine with one vCPU, in 64-bit mode before its first instruction."""

    def __init__(self, program: Program, target: mmap.mmap) -> None:
        """Make the virtual machine, with `program` in its memory.

        :param target: the memory at guest-physical `TARGET`; the caller keeps it mapped.

        :raise KvmUnavailable: KVM refused an ioctl.
        """
        self._program = program
        try:
            kvm = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
            self._vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
            fcntl.ioctl(self._vm, KVM_SET_TSS_ADDR, TSS)
            if program.interrupts:
                fcntl.ioctl(self._vm, KVM_CREATE_IRQCHIP, 0)
            self._low = mmap.mmap(-1, LOW_BYTES)
            self._fill(program)
            self._add_memory(0, 0, self._low)
            self._add_memory(1, TARGET, target)
            self._vcpu = fcntl.ioctl(self._vm, KVM_CREATE_VCPU, 0)
            self._run = mmap.mmap(self._vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
            self._set_cpuid(kvm)
            self._set_registers(program)
        except OSError as error:
            raise KvmUnavailable(f"KVM cannot make a vCPU here: {error.strerror}.") from None

    def unblock(self, blocked: Iterable[signal.Signals]) -> None:
        """Unblock these signals while the guest runs. Other blocked signals stay blocked."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ()) - set(blocked)
        bits = sum(1 << (number - 1) for number in mask)
        fcntl.ioctl(self._vcpu, KVM_SET_SIGNAL_MASK, struct.pack("<IQ", 8, bits))

    def run(self, clock: Clock) -> Timed:
        """Run the guest until a signal is pending, or until it writes to a port.

        :return: KVM_RUN, or KVM_PRE_FAULT_MEMORY.
        :raise OSError: it returned for another reason.
        """
        self._arm()
        if self._program.pre_fault:
            page = ctypes.create_string_buffer(struct.pack("<2Q48x", TARGET, PAGE), 64)
            run = clock(IOCTL, self._vcpu, KVM_PRE_FAULT_MEMORY, ctypes.addressof(page))
        else:
            run = clock(IOCTL, self._vcpu, KVM_RUN, 0)
        if run.result != -errno.EINTR:
            run.check("KVM_RUN")
            if self._program.pre_fault or self._exit_reason != KVM_EXIT_IO:
                raise OSError(f"the guest exited for reason {self._exit_reason}")
        return run

    @property
    def printed(self) -> int:
        """The byte that the guest wrote to a port when KVM_RUN returned without a signal."""
        (offset,) = struct.unpack_from("<Q", self._run, 40)
        return int(self._run[offset])

    def add_extra(self, clock: Clock) -> Timed:
        """Add the memory slot `EXTRA_SLOT`. Another thread may run the vCPU."""
        region = ctypes.create_string_buffer(self._region(EXTRA_SLOT, EXTRA, self._low))
        return clock(IOCTL, self._vm, KVM_SET_USER_MEMORY_REGION, ctypes.addressof(region))

    def remove_extra(self) -> None:
        """Remove the memory slot that `add_extra` has added."""
        region = struct.pack("<IIQQQ", EXTRA_SLOT, 0, EXTRA, 0, address_of(self._low))
        fcntl.ioctl(self._vm, KVM_SET_USER_MEMORY_REGION, region)

    @property
    def _exit_reason(self) -> int:
        return int(struct.unpack_from("<I", self._run, 8)[0])

    def _arm(self) -> None:
        """Make KVM touch the page that the guest shares with it."""
        program = self._program
        if program.interrupted:
            # An interrupt that was not delivered when a signal ended the last run.
            fcntl.ioctl(self._vcpu, KVM_SET_VCPU_EVENTS, bytes(64))
        if program.interrupts and program.msrs:
            apic = bytearray(fcntl.ioctl(self._vcpu, KVM_GET_LAPIC, bytes(1024)))
            struct.pack_into("<I", apic, APIC_SPIV, APIC_SPIV_ENABLED)
            if program.interrupted:
                struct.pack_into("<I", apic, APIC_IRR + VECTOR // 32 * 16, 1 << VECTOR % 32)
            fcntl.ioctl(self._vcpu, KVM_SET_LAPIC, bytes(apic))
        for number, value in program.msrs:
            # With a buffer that may change, ioctl returns the result: how many MSRs KVM has set.
            one = bytearray(struct.pack("<IIIIQ", 1, 0, number, 0, value))
            if fcntl.ioctl(self._vcpu, KVM_SET_MSRS, one) != 1:
                raise OSError(f"KVM refuses {value:#x} in MSR {number:#x}")

    def _fill(self, program: Program) -> None:
        def put(address: int, data: bytes) -> None:
            self._low[address : address + len(data)] = data

        put(CODE, program.code)
        put(PML4, struct.pack("<Q", PDPT | TABLE))
        put(PDPT, struct.pack("<Q", PAGE_DIRECTORY | TABLE))
        put(PAGE_DIRECTORY, struct.pack("<2Q", LEAF, TARGET | LEAF))

    def _add_memory(self, slot: int, address: int, memory: mmap.mmap) -> None:
        fcntl.ioctl(self._vm, KVM_SET_USER_MEMORY_REGION, self._region(slot, address, memory))

    def _region(self, slot: int, address: int, memory: mmap.mmap) -> bytes:
        return struct.pack("<IIQQQ", slot, 0, address, len(memory), address_of(memory))

    def _set_cpuid(self, kvm: int) -> None:
        """Give the vCPU all of CPUID that KVM supports; KVM refuses 64-bit registers otherwise."""
        fcntl.ioctl(self._vcpu, KVM_SET_CPUID2, offered.cpuid(kvm))

    def _set_registers(self, program: Program) -> None:
        special = bytearray(312)
        fcntl.ioctl(self._vcpu, KVM_GET_SREGS, special)
        dpl = 0 if program.privileged else 3
        code = _segment(0x20 | dpl, 0xB, dpl=dpl, long_mode=1)
        data = _segment(0x28 | dpl, 0x3, dpl=dpl, long_mode=0)
        task = _segment(0x30, 0xB, dpl=0, long_mode=0, code_or_data=0)
        special[0:144] = code + 5 * data
        special[144:168] = task
        struct.pack_into("<6Q", special, 224, CR0_PE_ET_PG, 0, PML4, CR4_PAE, 0, EFER_LME_LMA)
        fcntl.ioctl(self._vcpu, KVM_SET_SREGS, bytes(special))
        flags = RFLAGS_IOPL3 | (RFLAGS_IF if program.interrupts else 0)
        # rax rbx rcx rdx rsi rdi rsp rbp r8-r15 rip rflags. A page of zeros has no %rax like this.
        registers = [0xFF, 0, 0, PORT, TARGET, TARGET, 0, 0, *[0] * 8, CODE, flags]
        fcntl.ioctl(self._vcpu, KVM_SET_REGS, struct.pack("<18Q", *registers))


def address_of(memory: mmap.mmap) -> int:
    """Return the address of a mapping in this process."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
