# SPDX-License-Identifier: BSD-3-Clause
"""A system call, with the times just before and just after it.

A thread that has just been woken runs with cold caches, in which the way back into Python's
interpreter takes up to 40 us: longer than the wake. So machine code makes the system call, and
reads the clock on both sides of it, as a program in C would.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from dataclasses import dataclass

from bench_lib import libc
from bench_lib.errors import ProbeFailed
from bench_lib.units import NS_PER_S

ASSEMBLY = (
    # Save a register that the calls preserve, which also aligns the stack for them.
    ("push %rbx", "53"),
    ("mov %rdi, %rbx", "4889fb"),
    # if (rest.nanoseconds) nanosleep(&rest, NULL)
    ("cmpq $0, 96(%rbx)", "48837b6000"),
    ("je 1f", "740d"),
    ("mov $35, %eax", "b823000000"),
    ("lea 88(%rbx), %rdi", "488d7b58"),
    ("xor %esi, %esi", "31f6"),
    ("syscall", "0f05"),
    # clock_gettime(CLOCK_MONOTONIC, &began)
    ("1: mov $1, %edi", "bf01000000"),
    ("lea 48(%rbx), %rsi", "488d7330"),
    ("call *80(%rbx)", "ff5350"),
    # The system call, with up to four arguments.
    ("mov (%rbx), %rax", "488b03"),
    ("mov 8(%rbx), %rdi", "488b7b08"),
    ("mov 16(%rbx), %rsi", "488b7310"),
    ("mov 24(%rbx), %rdx", "488b5318"),
    ("mov 32(%rbx), %r10", "4c8b5320"),
    ("syscall", "0f05"),
    ("mov %rax, 40(%rbx)", "48894328"),
    # clock_gettime(CLOCK_MONOTONIC, &ended)
    ("mov $1, %edi", "bf01000000"),
    ("lea 64(%rbx), %rsi", "488d7340"),
    ("call *80(%rbx)", "ff5350"),
    ("pop %rbx", "5b"),
    ("ret", "c3"),
)
"""x86-64 code of ``void call(struct Call *)``, each instruction with its bytes. A test assembles
the instructions and compares."""

CODE = bytes.fromhex("".join(code for _, code in ASSEMBLY))

# arch/x86/entry/syscalls/syscall_64.tbl
CLOSE, IOCTL, WAIT4, PTRACE, TGKILL = 3, 16, 61, 101, 234

VDSO = "linux-vdso.so.1"
"""The library that the kernel maps into each process; see vdso(7)."""


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64))

    @property
    def ns(self) -> int:
        return int(self.seconds) * NS_PER_S + int(self.nanoseconds)


class _Call(ctypes.Structure):
    _fields_ = (
        ("number", ctypes.c_int64),
        ("arguments", ctypes.c_uint64 * 4),
        ("result", ctypes.c_int64),
        ("began", _Timespec),
        ("ended", _Timespec),
        ("clock_gettime", ctypes.c_void_p),
        ("rest", _Timespec),
    )


@dataclass(frozen=True)
class Timed:
    """What a system call returned, and when.

    :ivar result: the result, or the negative number of the error.
    :ivar began_ns: the time just before the call, in nanoseconds of the monotonic clock.
    :ivar ended_ns: the time just after the call.
    """

    result: int
    began_ns: int
    ended_ns: int

    @property
    def took_ns(self) -> int:
        return self.ended_ns - self.began_ns

    def check(self, name: str) -> None:
        """Raise the error of a call that failed.

        :param name: what was called, for the error.
        :raise OSError: the call failed.
        """
        if self.result < 0:
            raise OSError(-self.result, os.strerror(-self.result), name)


class Clock:
    """Makes system calls and times them, for one thread.

    Other threads of the interpreter run during a call.
    """

    def __init__(self) -> None:
        """Load the machine code, and use it once, so that its memory is there.

        :raise ProbeFailed: this system forbids executable memory.
        """
        self._code = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._code.write(CODE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._code))
        # Memory that was written may become executable; memory that is both need not be allowed.
        access = mmap.PROT_READ | mmap.PROT_EXEC
        if libc.LIBC.mprotect(ctypes.c_void_p(address), mmap.PAGESIZE, access):
            raise ProbeFailed(
                f"This system forbids executable memory ({libc.error('mprotect').strerror}), which "
                "the probe's clock needs; check what SELinux denies (`ausearch -m avc`)."
            )
        self._run = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
        self._call = _Call(clock_gettime=_clock_gettime())
        self._address = ctypes.addressof(self._call)
        self(CLOSE, -1)

    def __call__(self, number: int, *arguments: int, rest_ns: int = 0) -> Timed:
        """Make a system call.

        :param number: the number of the system call.
        :param arguments: at most four.
        :param rest_ns: nanoseconds to sleep before, less than a second. Python's own work just
            before a system call would slow it down.
        """
        call = self._call
        call.rest.nanoseconds = rest_ns
        call.number = number
        call.arguments[: len(arguments)] = arguments
        self._run(self._address)
        return Timed(call.result, call.began.ns, call.ended.ns)


def _clock_gettime() -> int | None:
    """Return the address of clock_gettime(2) in the vDSO, or in the C library if there is no vDSO.

    The C library's function only jumps to that of the vDSO, from a page that is cold after a wake.
    """
    try:
        function = ctypes.CDLL(VDSO)["__vdso_clock_gettime"]
    except (OSError, AttributeError):
        function = libc.LIBC.clock_gettime
    return ctypes.cast(function, ctypes.c_void_p).value
