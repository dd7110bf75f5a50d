# SPDX-License-Identifier: BSD-3-Clause
"""Whether /dev/kvm is there, may be used, and makes virtual machines and vCPUs."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from bench_lib import architecture
from bench_lib.errors import KvmUnavailable

DEVICE = Path("/dev/kvm")

# linux/kvm.h: _IO(KVMIO, 0x00), 0x01 and 0x41, KVMIO being 0xAE.
KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_CREATE_VCPU = 0xAE41
KVM_API_VERSION = 12
"""The version since Linux 2.6.22; the interface's documentation says to refuse any other."""


def check(device: Path = DEVICE) -> None:
    """Make a virtual machine with a vCPU and drop it.

    :raise KvmUnavailable: the sentence says why it could not be, and what to do.
    """
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise KvmUnavailable(
            f"There is no {device}: {_missing()} (virtualization may be off in the "
            "firmware, or this machine is a virtual one without nesting)."
        ) from None
    except PermissionError:
        raise KvmUnavailable(
            f"{device} may not be opened by this user: run as root, as trials have to."
        ) from None
    except OSError as error:
        raise KvmUnavailable(f"{device} cannot be opened: {error.strerror}.") from None
    try:
        if fcntl.ioctl(fd, KVM_GET_API_VERSION) != KVM_API_VERSION:
            raise KvmUnavailable(f"{device} does not speak version {KVM_API_VERSION} of KVM.")
        machine = fcntl.ioctl(fd, KVM_CREATE_VM, 0)
        try:
            os.close(fcntl.ioctl(machine, KVM_CREATE_VCPU, 0))
        finally:
            os.close(machine)
    except OSError as error:
        raise KvmUnavailable(
            f"{device} makes no virtual machine with a vCPU: {error.strerror}."
        ) from None
    finally:
        os.close(fd)


def _missing() -> str:
    """What gives a machine such a device; those of KVM's modules that a processor may be for."""
    row = architecture.find()
    names = [module.name for module in row.kvm_modules if module.flag] if row else []
    return f"load {' or '.join(names)}" if names else "boot a kernel with KVM"
