# SPDX-License-Identifier: BSD-3-Clause
"""The accelerator of a lab, the command line of its QEMU, and that of its kernel."""

from __future__ import annotations

import platform
import re
import sys
from functools import cache
from pathlib import Path

from bench_lib import architecture
from bench_lib.errors import KvmUnavailable, LabUnavailable
from bench_lib.host import device, setup
from bench_lib.kernel.store import Bootable
from bench_lib.lab import agent, initramfs
from bench_lib.process import run_tool
from bench_lib.record import Host
from bench_lib.settings import Settings

SHARE = "/run/kickbench-share"
"""Where the lab mounts the one folder of this host that it can write to."""

SPARE_MIB = 512
"""Memory that stays free for this host when labs run."""

CPUS = 2
"""CPUs of a lab that KVM runs. An emulated lab has one CPU, and QEMU's other threads take a second
CPU of this host.

With two CPUs, which QEMU 7.2 emulates in one thread each, 3 of 126 trials were lost: the nested
guest reset or stood still, or its migration failed. Kernels also panicked on an unexpected int3,
because one CPU still executed the breakpoint of a text patch that the other CPU had completed. With
one CPU, none of 600 trials was lost (300 each of Linux 6.1 and 6.12, in 60 boots).
"""

LONGEST_COMMAND_LINE = 2047
"""Bytes that an x86 kernel takes: COMMAND_LINE_SIZE of arch/x86/include/asm/setup.h in Linux."""


@cache
def accelerator() -> str:
    """The accelerator of this host's labs: `kvm` where KVM works and nests, else `tcg`.

    TCG emulates nested virtualization. Both the device and the module's parameter are checked,
    because a container sees the parameter even if it has no /dev/kvm. The answer is cached, so that
    everything in one process acts on the same one.
    """
    try:
        device.check()
    except KvmUnavailable:
        return "tcg"
    return "kvm" if setup.nested() else "tcg"


def host() -> Host:
    """The host that is stored in records made in a lab on this machine."""
    return Host("lab", accelerator(), platform.node())


@cache
def version() -> str:
    """The version of the QEMU that runs labs, in QEMU's own form: 7.2.22 (Debian).

    :raise ProgramMissing: QEMU is not installed.
    """
    return version_of(architecture.for_trials().qemu)


def version_of(program: str) -> str:
    """The version of a QEMU, in QEMU's own form.

    :raise ProgramMissing: there is no such program.
    :raise ToolFailed: it is not QEMU.
    """
    output = run_tool([program, "--version"])
    return output.partition("\n")[0].removeprefix("QEMU emulator version ")


def check_memory(settings: Settings, labs: int = 1) -> None:
    """Refuse to start more labs than fit into this host's memory.

    :param labs: the number of labs that are to run at once; none of them runs yet.
    :raise LabUnavailable: this host has too little memory available.
    """
    available_mib = setup.memory_mib("MemAvailable") or 0
    if available_mib < labs * settings.lab_memory_mib + SPARE_MIB:
        needed = f"{settings.lab_memory_mib} MiB of memory and {SPARE_MIB} MiB to spare"
        many = f"{labs} labs at once need {labs} times" if labs > 1 else "The lab needs"
        fewer = " ask for fewer labs with --jobs or KICKBENCH_JOBS," if labs > 1 else ""
        raise LabUnavailable(
            f"{many} {needed}, but only {available_mib} MiB are available; free some memory,"
            f"{fewer} or set KICKBENCH_LAB_MEMORY lower."
        )


def command_line(kernel: Bootable, agent_fd: int, share: Path, settings: Settings) -> list[str]:
    """QEMU's command line.

    :param agent_fd: QEMU's end of the socket to the agent.
    :param share: the one folder of this host that the lab can write to.
    :raise LabUnavailable, FetchFailed, KernelUnusable, ProgramMissing: as in `initramfs.files`.
    """
    emulated = accelerator() == "tcg"
    files = initramfs.files(kernel, unpacked=emulated)
    trials = architecture.for_trials()
    nine_p = "security_model=none,multidevs=remap"
    # fmt: off
    return [
        trials.qemu,
        "-nodefaults",
        "-no-user-config",
        "-display", "none",
        "-machine", trials.machine,
        "-accel", "tcg" if emulated else "kvm",
        # `max` has what nested KVM needs, under both accelerators. KVM of a PREEMPT_RT kernel also
        # needs a TSC of constant speed. QEMU's TSC has that, but QEMU offers it to TCG only if
        # forced.
        "-cpu", "max,x-force-features=on,+invtsc" if emulated else "max",
        # See `CPUS`.
        "-smp", str(1 if emulated else CPUS),
        "-m", f"{settings.lab_memory_mib}M",
        "-kernel", str(files.kernel),
        "-initrd", str(files.initramfs),
        "-append", " ".join(parameters(kernel, emulated=emulated)),
        # The reboot after a panic ends QEMU.
        "-no-reboot",
        # The kernel's console, which shows why a lab died.
        "-serial", "stdio",
        # The connection to the agent.
        "-chardev", f"socket,id=agent,fd={agent_fd}",
        "-device", "virtio-serial-pci",
        "-device", f"virtserialport,name={agent.PORT},chardev=agent",
        "-fsdev", f"local,id=root,path=/,readonly=on,{nine_p}",
        "-device", "virtio-9p-pci,fsdev=root,mount_tag=kickbench-root",
        "-fsdev", f"local,id=share,path={str(share).replace(',', ',,')},{nine_p}",
        "-device", "virtio-9p-pci,fsdev=share,mount_tag=kickbench-share",
    ]
    # fmt: on


def parameters(kernel: Bootable, *, emulated: bool) -> list[str]:
    """The kernel's command line.

    :raise LabUnavailable: the command line is longer than the kernel accepts.
    """
    ours = {
        # The path is resolved, because init.sh looks it up in its own root, where a symbolic link
        # would lead elsewhere.
        "KICKBENCH_MODULES": kernel.modules.resolve(),
        "KICKBENCH_SHARE": SHARE,
        "KICKBENCH_PYTHON": sys.executable,
        "KICKBENCH_AGENT": agent.__file__,
    }
    found = [
        "console=ttyS0",
        # The kernel still prints a panic and the errors before it.
        "quiet",
        # Reboot immediately after a panic, which ends QEMU because of -no-reboot.
        "panic=-1",
        # The self-tests of cryptographic algorithms, which no trial uses, take half a second of an
        # emulated Linux 6.12.
        *(["cryptomgr.notests"] if emulated else []),
        # On a busy host an emulated kernel may find the TSC unstable. Then KVM updates the clocks
        # that it shares with guests all the time, and guests get stuck elsewhere than on most
        # hosts.
        *(["tsc=reliable"] if emulated else []),
        *(f"{name}={_escaped(str(value))}" for name, value in ours.items()),
    ]
    if len(" ".join(found)) > LONGEST_COMMAND_LINE:
        raise LabUnavailable(
            "These paths are too long for the command line of a lab's kernel: "
            f"{', '.join(map(str, ours.values()))}. Set KICKBENCH_CACHE to a shorter path, or "
            "install kickbench in a shorter path; each byte of a character outside ASCII takes "
            "five bytes there."
        )
    return found


def _escaped(text: str) -> str:
    """Escape a word of the kernel's command line; init.sh decodes it with printf's %b."""
    return re.sub(rb"[^\w/.,+-]", lambda each: b"\\0%03o" % each[0][0], text.encode()).decode()
