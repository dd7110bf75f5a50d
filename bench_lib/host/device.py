# SPDX-License-Identifier: BSD-3-Clause
"""Check that /dev/kvm exists, may be opened, and creates virtual machines and vCPUs."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from bench_lib import architecture
from bench_lib.errors import KvmUnavailable

DEVICE = Path("/dev/kvm")

# linux/kvm.h: _IO(KVMIO, 0x00), 0x01 and 0x41, where KVMIO is 0xAE.
KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_CREATE_VCPU = 0xAE41
KVM_API_VERSION = 12
"""KVM's version since Linux 2.6.22. Documentation/virt/kvm/api.rst requires applications to refuse
any other."""


def check(device: Path = DEVICE) -> None:
    """Create a virtual machine with a vCPU, and drop it.

    :raise KvmUnavailable: KVM cannot be used; the sentence gives the reason and what to do.
    """
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise KvmUnavailable(
            f"There is no {device}; {_remedy()}. If that does not help, virtualization may be off "
            "in the firmware, or this may be a virtual machine without nested virtualization."
        ) from None
    except PermissionError:
        raise KvmUnavailable(
            f"This user may not open {device}; run kickbench as root, which trials require."
        ) from None
    except OSError as error:
        raise KvmUnavailable(f"{device} cannot be opened: {error.strerror}.") from None
    try:
        if fcntl.ioctl(fd, KVM_GET_API_VERSION) != KVM_API_VERSION:
            raise KvmUnavailable(
                f"{device} does not have version {KVM_API_VERSION} of KVM's interface; boot a "
                "kernel of Linux 2.6.22 or later."
            )
        machine = fcntl.ioctl(fd, KVM_CREATE_VM, 0)
        try:
            os.close(fcntl.ioctl(machine, KVM_CREATE_VCPU, 0))
        finally:
            os.close(machine)
    except OSError as error:
        raise KvmUnavailable(
            f"{device} cannot create a virtual machine with a vCPU: {error.strerror}; the kernel's "
            "log may show the reason (dmesg)."
        ) from None
    finally:
        os.close(fd)


def _remedy() -> str:
    """What to do if the device is missing: load a module, or boot another kernel."""
    row = architecture.find()
    names = [module.name for module in row.kvm_modules if module.flag] if row else []
    return f"load {' or '.join(names)}" if names else "boot a kernel with KVM"
