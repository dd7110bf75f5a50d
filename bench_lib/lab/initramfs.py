# SPDX-License-Identifier: BSD-3-Clause
"""What a lab boots: a kernel, and an initramfs that brings it to the agent.

Both are made once for each build and kept beside it in the cache. The initramfs holds busybox,
init.sh, and the modules that are needed before the host's userland can be reached; all else comes
from there.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from bench_lib.errors import KernelUnusable, LabUnavailable, ProgramMissing
from bench_lib.host import packages
from bench_lib.kernel import module_files, vmlinux
from bench_lib.kernel.store import Bootable, Store

FIRST = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
"""Modules without which a lab does not come up."""

THEN = ("veth", "sch_netem", "kvm_amd", "kvm_intel")
"""Modules that trials use. They are here as well because modprobe takes ten times as long under
emulation; one that is missing, or not for the processor, is left out. An emulated processor is
AMD's, so that module comes first, and init.sh loads KVM's modules only until one works."""

CPIO_LIMIT_S = 60.0

_INIT = Path(__file__).with_name("init.sh")


@dataclass(frozen=True)
class Files:
    """What QEMU's -kernel and -initrd name."""

    kernel: Path
    initramfs: Path


def files(kernel: Bootable, *, unpacked: bool) -> Files:
    """What a build is booted with, made if it is not there yet.

    :param unpacked: to start the kernel without the image that it comes in, if it can be. Emulated,
        that image takes a second to three to unpack it. It also chooses where in memory the kernel
        lies (KASLR), so without it that is the same in each boot.
    :raise LabUnavailable: they cannot be written.
    :raise FetchFailed: the cache cannot be written, or a module is damaged.
    :raise KernelUnusable: the build lacks a module that no lab comes up without.
    :raise ProgramMissing: busybox or libarchive is not installed.
    """
    folder = kernel.folder / "lab"
    try:
        folder.mkdir(exist_ok=True)
        made = Files(kernel.vmlinuz, _initramfs(kernel, folder))
        return Files(_vmlinux(kernel, folder), made.initramfs) if unpacked else made
    except OSError as error:
        raise LabUnavailable(
            f"What a lab boots cannot be written to {folder} ({error.strerror}); free some space, "
            "or set KICKBENCH_CACHE to a folder of yours and fetch the kernel again."
        ) from None


def _vmlinux(kernel: Bootable, folder: Path) -> Path:
    """The kernel without its image; the image where that is not to be."""
    there = folder / "vmlinux"
    image_alone = folder / "vmlinuz-alone"
    if not there.exists() and not image_alone.exists():
        with _new(kernel) as new:
            if vmlinux.extract(kernel.vmlinuz, new / "vmlinux"):
                (new / "vmlinux").rename(there)
            else:
                image_alone.touch()
    return there if there.exists() else kernel.vmlinuz


def _initramfs(kernel: Bootable, folder: Path) -> Path:
    program = busybox()
    parts = (_INIT.read_bytes(), program.read_bytes(), repr((FIRST, THEN)).encode())
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts))
    there = folder / f"initramfs-{digest.hexdigest()[:12]}.cpio"
    if not there.exists():
        with _new(kernel) as new:
            root = new / "root"
            _fill(root, kernel, program)
            _pack(root, new / there.name, program)
            (new / there.name).rename(there)
    return there


def _new(kernel: Bootable) -> AbstractContextManager[Path]:
    """A folder of the cache, from which what is whole is moved to where it belongs.

    What a process that was killed has left in one goes with the next that is made.
    """
    return Store(kernel.folder.parent).new_folder()


def busybox() -> Path:
    """The program that the initramfs consists of.

    :raise ProgramMissing: there is none that runs without libraries.
    """
    found = shutil.which("busybox")
    if found is not None:
        path = Path(found)
        with path.open("rb") as file:
            try:
                if not any(ELFFile(file).iter_segments("PT_INTERP")):
                    return path
            except ELFError:  # a script
                pass
    raise ProgramMissing(
        "The lab needs busybox, linked statically, for its initramfs; "
        f"{packages.advice('busybox')}."
    )


def _fill(root: Path, kernel: Bootable, busybox: Path) -> None:
    for name in ("bin", "modules", "proc", "sys", "dev", "lower", "layer", "root"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin" / "busybox")
    shutil.copyfile(_INIT, root / "init")
    (root / "init").chmod(0o755)
    modules = Modules(kernel.modules)
    first = modules.in_order(FIRST)
    then = [each for each in modules.in_order(THEN, lacking=True) if each not in first]
    for name, listed in (("first", first), ("then", then)):
        unpacked = [module.name.split(".ko")[0] + ".ko" for module in listed]
        (root / "modules" / name).write_text("".join(f"{each}\n" for each in unpacked))
        for module, each in zip(listed, unpacked, strict=True):
            (root / "modules" / each).write_bytes(module_files.contents(module))


def _pack(root: Path, to: Path, busybox: Path) -> None:
    """Pack a folder as the kernel wants it: "newc", not compressed."""
    # A folder before what is in it.
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    with to.open("wb") as packed:
        done = subprocess.run(
            [busybox, "cpio", "-o", "-H", "newc"],
            cwd=root,
            input="".join(f"{name}\n" for name in names).encode(),
            stdout=packed,
            stderr=subprocess.PIPE,
            timeout=CPIO_LIMIT_S,
            check=False,
        )
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace").strip()
        raise LabUnavailable(f"busybox cannot pack an initramfs: {text}.")


class Modules:
    """The modules of a build, by depmod's lists."""

    def __init__(self, folder: Path) -> None:
        """:param folder: lib/modules/RELEASE."""
        self._folder = folder
        self._needs: dict[str, list[Path]] = {}
        for line in module_files.lines(folder / "modules.dep"):
            module, _, needs = line.partition(":")
            self._needs[module_files.name(module)] = [
                folder / each for each in (module, *needs.split())
            ]
        builtin = folder / "modules.builtin"
        lines = module_files.lines(builtin) if builtin.exists() else []
        self._builtin = {module_files.name(line) for line in lines}

    def in_order(self, names: Sequence[str], *, lacking: bool = False) -> list[Path]:
        """These and what they need, each once, in an order in which they can be loaded.

        :param lacking: whether those that the build does not have are left out.
        :raise KernelUnusable: the build does not have one.
        """
        order: dict[Path, None] = {}
        for name in names:
            if name in self._needs:
                # depmod gives what is to be loaded first last.
                order.update(dict.fromkeys(reversed(self._needs[name])))
            elif name not in self._builtin and not lacking:
                raise KernelUnusable(
                    f"Kernel {self._folder.name} cannot be booted in the lab: it has no {name}."
                )
        return list(order)
