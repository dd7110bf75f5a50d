# SPDX-License-Identifier: BSD-3-Clause
"""Rows about the lab, which runs other kernels."""

from __future__ import annotations

import shutil

from bench_lib import architecture
from bench_lib.doctor.finding import Finding, Status
from bench_lib.errors import KernelError, LabUnavailable, ProgramMissing
from bench_lib.host import device, packages, setup, shell
from bench_lib.kernel import archive
from bench_lib.kernel.store import Store
from bench_lib.lab import initramfs, qemu
from bench_lib.record import Setup
from bench_lib.settings import Settings

PROGRAMS, MEMORY, DISK = "lab programs", "lab memory", "lab disk"

BUILD_MIB = 1024
"""The disk space that fetching and unpacking a kernel takes at the most."""

STEP_MIB = 64
"""The proposed memory of a lab is a multiple of this. It leaves at least this much unused, because
the available memory changes."""

LEAST_LAB_MIB = 1024
"""The least memory with which a lab boots and runs trials."""


def nesting(facts: Setup) -> Finding:
    """Check which accelerator labs run on.

    :param facts: the set-up of this machine.
    """
    name = facts.kvm
    if qemu.accelerator() == "kvm":
        return Finding("nesting", Status.FINE, "labs run on KVM")
    row = architecture.find()
    nests = row is not None and any(each.name == name and each.nests for each in row.kvm_modules)
    why = "KVM offers no nesting here"
    fix = None
    keep = ""
    if facts.nested:
        why = f"{name} allows nesting, but {device.DEVICE} does not work (see the row kvm)"
    elif nests:
        why = f"{name} was loaded without nesting"
        fix = shell.as_root(f"sh -c 'modprobe -r {name} && modprobe {name} nested=1'")
        keep = f"; `options {name} nested=1` in /etc/modprobe.d makes nesting permanent"
    elif name:
        why = f"{name} does not support nesting"
    return Finding(
        "nesting",
        Status.DEGRADED,
        f"{why}, so labs are emulated (tcg)",
        f"labs show which requests hang, but not how many milliseconds an answer takes{keep}",
        fix,
    )


def programs() -> Finding:
    """Check for the programs that unpack kernels and make an initramfs."""
    for program, check in (("busybox", initramfs.busybox), ("bsdtar", archive.library)):
        try:
            check()
        except ProgramMissing as error:
            fix = packages.install(program)
            return Finding(PROGRAMS, Status.MISSING, str(error), "no lab can boot", fix)
    if shutil.which("depmod") is None:
        found = "depmod is not installed"
        fix = packages.install("depmod")
        return Finding(PROGRAMS, Status.MISSING, found, "no kernel can be fetched or added", fix)
    return Finding(PROGRAMS, Status.FINE, "busybox, libarchive and depmod are installed")


def memory(settings: Settings) -> Finding:
    """Check that a lab fits into this host's memory."""
    available_mib = setup.memory_mib("MemAvailable")
    try:
        qemu.check_memory(settings)
    except LabUnavailable as error:
        fits = ((available_mib or 0) - qemu.SPARE_MIB) // STEP_MIB * STEP_MIB - STEP_MIB
        fix = f"export KICKBENCH_LAB_MEMORY={fits}" if fits >= LEAST_LAB_MIB else None
        return Finding(MEMORY, Status.MISSING, str(error), "no lab can boot", fix)
    return Finding(MEMORY, Status.FINE, f"{available_mib} MiB are available")


def disk(settings: Settings) -> Finding:
    """Check which kernels are in the cache, and that another one fits."""
    elsewhere = "export KICKBENCH_CACHE=/a/folder/with/more"
    try:
        nearest = next(each for each in (settings.cache, *settings.cache.parents) if each.exists())
        free_mib = shutil.disk_usage(nearest).free >> 20
        builds = len(Store.of(settings).all())
    except PermissionError:
        found = f"this user cannot read {settings.cache}"
        return Finding(DISK, Status.MISSING, found, "no kernel can be fetched", elsewhere)
    except KernelError as error:
        return Finding(DISK, Status.MISSING, str(error), "no lab can boot")
    kernels = "1 kernel is" if builds == 1 else f"{builds} kernels are"
    found = f"{kernels} in the cache {settings.cache}; {free_mib} MiB are free for more"
    if free_mib >= BUILD_MIB:
        return Finding(DISK, Status.FINE, found)
    return Finding(
        DISK,
        Status.DEGRADED if builds else Status.MISSING,
        found,
        f"no more kernels can be fetched, because one takes up to {BUILD_MIB} MiB",
        elsewhere,
    )
