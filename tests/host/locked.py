# SPDX-License-Identifier: BSD-3-Clause
"""Has a vCPU and a dirty page of a mapped file; unmaps that page when told to.

    python locked.py FILE

`0` on stdin: a thread unmaps the page. It holds mmap_lock until the file system has written it.
`1` on stdin: another thread maps memory, for which it needs that lock.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import sys
import threading
from collections.abc import Callable

KVM_CREATE_VM, KVM_CREATE_VCPU = 0xAE01, 0xAE41

libc = ctypes.CDLL(None)
vm = fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR), KVM_CREATE_VM, 0)
vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
memory = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 1 << 20)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
memory[0] = 1

# The threads start now, because starting a thread takes the lock.
begins = [os.pipe() for _ in range(2)]


def unmap() -> None:
    os.read(begins[0][0], 1)
    libc.munmap(ctypes.c_void_p(address), mmap.PAGESIZE)


def map_more() -> None:
    os.read(begins[1][0], 1)
    libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)


work: list[Callable[[], None]] = [unmap, map_more]
for each in work:
    threading.Thread(target=each, daemon=True).start()
os.write(1, b"up\n")
while number := os.read(0, 1):
    os.write(begins[int(number)][1], b"!")
