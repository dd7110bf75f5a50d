# SPDX-License-Identifier: BSD-3-Clause
"""Rows about the lab, which runs other kernels."""

from __future__ import annotations

import shutil

from bench_lib import architecture
from bench_lib.doctor.finding import Finding, Status
from bench_lib.errors import HostError, KernelError, LabUnavailable, ProgramMissing, ToolFailed
from bench_lib.host import device, packages, setup, shell
from bench_lib.kernel import archive
from bench_lib.kernel.store import Store
from bench_lib.lab import initramfs, qemu
from bench_lib.process import run_tool
from bench_lib.record import Setup
from bench_lib.settings import Settings

PROGRAMS, MEMORY, DISK = "lab programs", "lab memory", "lab disk"

BUILD_MIB = 1024
"""Of disk that a kernel takes at the most while it is fetched and unpacked."""

STEP_MIB = 64
"""What is proposed is a multiple of it, and as much less than there is, which changes."""

LEAST_LAB_MIB = 1024
"""With less memory a lab does not boot and run trials."""


def nesting(facts: Setup) -> Finding:
    """What the lab runs on, and why. :param facts: of this machine."""
    name = facts.kvm
    if qemu.accelerator() == "kvm":
        return Finding("nesting", Status.FINE, "the lab's kernels run on KVM")
    row = architecture.find()
    nests = row is not None and any(each.name == name and each.nests for each in row.kvm_modules)
    why = "KVM does not nest here"
    fix = None
    keep = ""
    if facts.nested:
        why = f"{name} nests, but {device.DEVICE} does not work (see kvm)"
    elif nests:
        fix = shell.as_root(f"sh -c 'modprobe -r {name} && modprobe {name} nested=1'")
        keep = f"; the line `options {name} nested=1` in /etc/modprobe.d keeps it over a boot"
    elif name:
        why = f"{name} has no nesting"
    return Finding(
        "nesting",
        Status.DEGRADED,
        f"{why}; the lab's kernels are emulated (tcg)",
        f"the lab tells who hangs, not how many milliseconds an answer takes{keep}",
        fix,
    )


def libvirt() -> Finding:
    """Whether it is there."""
    try:
        found = f"libvirt {run_tool(['virsh', '--version']).strip()}"
    except (ToolFailed, HostError):
        found = "not installed"
    return Finding("libvirt", Status.FINE, f"{found}; no trial uses it")


def programs() -> Finding:
    """What unpacks kernels, and makes an initramfs of their modules."""
    for program, check in (("busybox", initramfs.busybox), ("bsdtar", archive.library)):
        try:
            check()
        except ProgramMissing as error:
            fix = packages.install(program)
            return Finding(PROGRAMS, Status.MISSING, str(error), "no lab boots", fix)
    if shutil.which("depmod") is None:
        found = "depmod is not installed"
        return Finding(
            PROGRAMS, Status.MISSING, found, "no lab boots", packages.install("modprobe")
        )
    return Finding(PROGRAMS, Status.FINE, "busybox, libarchive and depmod")


def memory(settings: Settings) -> Finding:
    """Room for one."""
    available_mib = setup.memory_mib("MemAvailable")
    try:
        qemu.check_memory(settings)
    except LabUnavailable as error:
        fits = ((available_mib or 0) - qemu.SPARE_MIB) // STEP_MIB * STEP_MIB - STEP_MIB
        fix = f"export KICKBENCH_LAB_MEMORY={fits}" if fits >= LEAST_LAB_MIB else None
        return Finding(MEMORY, Status.MISSING, str(error), "no lab boots", fix)
    return Finding(MEMORY, Status.FINE, f"{available_mib} MiB available")


def disk(settings: Settings) -> Finding:
    """Kernels, and room for more."""
    elsewhere = "export KICKBENCH_CACHE=/a/folder/with/more"
    try:
        there = next(each for each in (settings.cache, *settings.cache.parents) if each.exists())
        free_mib = shutil.disk_usage(there).free >> 20
        builds = len(Store.of(settings).all())
    except PermissionError:
        found = f"{settings.cache} is not this user's"
        return Finding(DISK, Status.MISSING, found, "no kernel can be fetched", elsewhere)
    except KernelError as error:
        return Finding(DISK, Status.MISSING, str(error), "no lab boots")
    found = f"{builds} kernels fetched; {free_mib} MiB free for more in {settings.cache}"
    if free_mib >= BUILD_MIB:
        return Finding(DISK, Status.FINE, found)
    return Finding(
        DISK,
        Status.DEGRADED if builds else Status.MISSING,
        found,
        f"no kernel more can be fetched, for one takes up to {BUILD_MIB} MiB",
        elsewhere,
    )
