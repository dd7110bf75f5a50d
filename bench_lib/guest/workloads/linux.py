# SPDX-License-Identifier: BSD-3-Clause
"""The workload `linux`: a Linux kernel that runs one program; see guest-images/linux/guest.c."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench_lib.errors import ImageError
from bench_lib.guest import image, initramfs
from bench_lib.guest.serial import SerialLine
from bench_lib.guest.workloads.marks import MarksWatch
from bench_lib.guest.workloads.workload import Watch, Workload
from bench_lib.kernel.store import Bootable
from bench_lib.record import Shape

FOLDER = "linux"
"""The folder of the program among the guest images."""

INITRAMFS = "linux-guest.cpio"

PARAMETERS = (
    # The kernel prints to the second serial line, and only errors: each character takes time.
    "console=ttyS1",
    "quiet",
    # Reboot immediately after a panic, which ends QEMU because of -no-reboot.
    "panic=-1",
    # Some seconds after a guest was continued, its watchdog clears a flag in the page of the clock
    # that it shares with KVM (PVCLOCK_GUEST_STOPPED). If that happened during a migration, the page
    # would be missing, as it is not if a guest has run for longer.
    "nowatchdog",
)
"""Parameters of the guest's kernel. The others have their defaults, as in any Linux guest."""

KERNEL_MIB = 96
"""The memory that the guest's kernel takes, and an eighth of all memory beside it."""


@dataclass(frozen=True)
class Program:
    """The manifest of the guest's program.

    :ivar file: the name of the built program.
    :ivar source: the name of its source file.
    :ivar sha256: the hash of the built program.
    :ivar compiler: the compiler that built it, as `gcc --version` names it. Another compiler builds
        another program.
    """

    file: str
    source: str
    sha256: str
    compiler: str


def manifest(images: Path) -> Program:
    """Read the manifest of the guest's program.

    :param images: the folder of guest images.
    :raise ImageError: there is no manifest, or it cannot be read.
    """
    path = images / FOLDER / "manifest.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Program)
    except (OSError, msgspec.MsgspecError) as error:
        raise ImageError(
            f"The manifest of the Linux guest {path} cannot be read: {error}."
        ) from None


def load(images: Path) -> bytes:
    """Read the guest's program.

    :raise ImageError: the program is missing, or is not the one that the manifest describes.
    """
    entry = manifest(images)
    path = images / FOLDER / entry.file
    return image.checked(path, entry.sha256, "The program of the Linux guest")


def span_mib(memory_mib: int) -> int:
    """Return how much memory the program writes and checks, in MiB."""
    return max(1, memory_mib - KERNEL_MIB - memory_mib // 8)


class Linux(Workload):
    """A Linux guest.

    Its vCPUs halt when they have nothing to do, and it shares pages with KVM, so what gets stuck
    where depends on both kernels and on the moment.
    """

    prescribes = None
    halts = True

    def __init__(self, program: bytes, kernel: Bootable, folder: Path) -> None:
        """Prepare the workload.

        :param program: the program, which has been checked against its manifest.
        :param folder: a folder for the initramfs, which exists as long as the guests do.
        """
        self.sha256 = hashlib.sha256(program).hexdigest()
        self.kernel = kernel.build.kernel
        self._vmlinuz = kernel.vmlinuz
        self._initramfs = folder / INITRAMFS
        self._initramfs.write_bytes(initramfs.packed(program))

    def arguments(self, shape: Shape) -> list[str]:
        # The kernel passes what follows "--" on to process 1.
        program = (str(shape.work), str(span_mib(shape.memory_mib)))
        # fmt: off
        return [
            "-kernel", str(self._vmlinuz),
            "-initrd", str(self._initramfs),
            "-append", " ".join((*PARAMETERS, "--", *program)),
        ]
        # fmt: on

    def watch(self, line: SerialLine, shape: Shape) -> Watch:
        return MarksWatch(line, shape.vcpus)
