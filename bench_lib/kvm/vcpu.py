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
import time
from collections.abc import Iterable
from dataclasses import dataclass

from bench_lib.errors import KvmUnavailable
from bench_lib.host.device import DEVICE, KVM_CREATE_VCPU, KVM_CREATE_VM

KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_SET_TSS_ADDR = 0xAE47
KVM_CREATE_IRQCHIP = 0xAE60
KVM_RUN = 0xAE80
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84
KVM_SET_SIGNAL_MASK = 0x4004AE8B
KVM_GET_SUPPORTED_CPUID = 0xC008AE05
KVM_SET_CPUID2 = 0x4008AE90

PAGE = 4096
HUGE_PAGE = 2 << 20

CODE, PML4, PDPT, PAGE_DIRECTORY = 0x1000, 0x2000, 0x3000, 0x4000
LOW_BYTES = 0x10000
"""The size of the memory that is present: code and page tables. It starts at guest-physical 0; all
addresses here are guest-physical."""

TARGET = HUGE_PAGE
"""The page that the code touches, at the start of its own memory slot."""

TSS = 0x40000000
"""An unused address where KVM on Intel processors may put the TSS that it needs for real mode."""

# x86 page table bits. Accessed and dirty are set, so that the processor never writes the tables.
TABLE, LEAF = 0x27, 0xE7
CR0_PE_ET_PG = 0x80000011
CR4_PAE = 0x20
EFER_LME_LMA = 0x500
RFLAGS_IOPL3, RFLAGS_IF = 0x3002, 0x200
PORT = 0x80

# A PyDLL does not release the interpreter's lock during a call. The process has one thread, so the
# lock is not needed elsewhere, and the clock is read sooner after KVM_RUN.
_libc = ctypes.PyDLL(None, use_errno=True)


@dataclass(frozen=True)
class Program:
    """What the guest runs.

    :ivar code: 64-bit code that runs at CPL 3, with `TARGET` in %rdi and %rsi and a port in %dx.
    :ivar interrupts: whether the guest has interrupts enabled and in-kernel interrupt controllers.
    """

    code: bytes
    interrupts: bool = False


READ = Program(bytes.fromhex("488b07ebfb"))
"""movq (%rdi), %rax in a loop."""
WRITE = Program(bytes.fromhex("488907ebfb"))
"""movq %rax, (%rdi) in a loop."""
WRITE_WITH_INTERRUPTS = Program(WRITE.code, interrupts=True)
STRING_OUT = Program(bytes.fromhex("6eebfd"))
"""outsb in a loop: KVM itself reads the byte from guest memory, on every processor."""
SPIN = Program(bytes.fromhex("ebfe"))
"""A jmp to itself."""


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

    def run(self) -> int:
        """Run the guest until a signal is pending.

        :return: the time at which KVM_RUN returned, in nanoseconds of the monotonic clock.
        :raise OSError: KVM_RUN returned for another reason.
        """
        run, vcpu, now = _libc.ioctl, self._vcpu, time.monotonic_ns
        left = run(vcpu, KVM_RUN, 0)
        # Nothing may precede this: just after a wake, a line of Python takes microseconds.
        back_ns = now()
        if left == 0:
            raise OSError(
                f"the guest exited for reason {struct.unpack_from('<I', self._run, 8)[0]}"
            )
        if (code := ctypes.get_errno()) != errno.EINTR:
            raise OSError(code, os.strerror(code))
        return back_ns

    def _fill(self, program: Program) -> None:
        def put(address: int, data: bytes) -> None:
            self._low[address : address + len(data)] = data

        put(CODE, program.code)
        put(PML4, struct.pack("<Q", PDPT | TABLE))
        put(PDPT, struct.pack("<Q", PAGE_DIRECTORY | TABLE))
        put(PAGE_DIRECTORY, struct.pack("<2Q", LEAF, TARGET | LEAF))

    def _add_memory(self, slot: int, address: int, memory: mmap.mmap) -> None:
        region = struct.pack("<IIQQQ", slot, 0, address, len(memory), address_of(memory))
        fcntl.ioctl(self._vm, KVM_SET_USER_MEMORY_REGION, region)

    def _set_cpuid(self, kvm: int) -> None:
        """Give the vCPU all of CPUID that KVM supports; KVM refuses 64-bit registers otherwise."""
        entries = 256
        buffer = bytearray(struct.pack("<II", entries, 0) + bytes(40 * entries))
        fcntl.ioctl(kvm, KVM_GET_SUPPORTED_CPUID, buffer)
        # KVM has written the number of entries into the buffer, which is passed on unchanged.
        fcntl.ioctl(self._vcpu, KVM_SET_CPUID2, buffer)

    def _set_registers(self, program: Program) -> None:
        special = bytearray(312)
        fcntl.ioctl(self._vcpu, KVM_GET_SREGS, special)
        code = _segment(0x23, 0xB, dpl=3, long_mode=1)
        data = _segment(0x2B, 0x3, dpl=3, long_mode=0)
        task = _segment(0x30, 0xB, dpl=0, long_mode=0, code_or_data=0)
        special[0:144] = code + 5 * data
        special[144:168] = task
        struct.pack_into("<6Q", special, 224, CR0_PE_ET_PG, 0, PML4, CR4_PAE, 0, EFER_LME_LMA)
        fcntl.ioctl(self._vcpu, KVM_SET_SREGS, bytes(special))
        flags = RFLAGS_IOPL3 | (RFLAGS_IF if program.interrupts else 0)
        # rax rbx rcx rdx rsi rdi rsp rbp r8-r15 rip rflags
        registers = [0, 0, 0, PORT, TARGET, TARGET, 0, 0, *[0] * 8, CODE, flags]
        fcntl.ioctl(self._vcpu, KVM_SET_REGS, struct.pack("<18Q", *registers))


def address_of(memory: mmap.mmap) -> int:
    """Return the address of a mapping in this process."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
