# SPDX-License-Identifier: BSD-3-Clause
"""What a lab boots: a kernel, and an initramfs that mounts the host's userland.

Both are made once for each build and kept beside it in the cache. The initramfs holds busybox,
init.sh, the modules that are needed to mount the userland, and those that trials use.
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
"""The modules without which a lab does not come up."""

THEN = ("veth", "sch_netem", "fuse", "kvm_amd", "kvm_intel")
"""The modules that trials use.

They are in the initramfs because modprobe takes ten times as long under emulation. A module that
the build lacks is left out. An emulated processor is AMD's, so kvm_amd comes first; init.sh loads
KVM's modules only until one of them works.
"""

CPIO_LIMIT_S = 60.0
"""How long busybox may take to pack an initramfs."""

_INIT = Path(__file__).with_name("init.sh")


@dataclass(frozen=True)
class Files:
    """The files for QEMU's options -kernel and -initrd."""

    kernel: Path
    initramfs: Path


def files(kernel: Bootable, *, unpacked: bool) -> Files:
    """The files that boot a build; they are made if they are not in the cache.

    :param unpacked: boot the vmlinux inside vmlinuz, where that is possible. The decompressor of
        vmlinuz takes one to three seconds under emulation. The decompressor also chooses the
        kernel's address (KASLR), so without it the address is the same in each boot.
    :raise LabUnavailable: the files cannot be written, or the initramfs cannot be packed.
    :raise FetchFailed: the cache cannot be written, or a module is damaged.
    :raise KernelUnusable: the build lacks a module of `FIRST`.
    :raise ProgramMissing: busybox or libarchive is not installed.
    """
    folder = kernel.folder / "lab"
    try:
        folder.mkdir(exist_ok=True)
        made = Files(kernel.vmlinuz, _initramfs(kernel, folder))
        return Files(_vmlinux(kernel, folder), made.initramfs) if unpacked else made
    except OSError as error:
        raise LabUnavailable(
            f"The lab's boot files cannot be written to {folder} ({error.strerror}); free some "
            "space, or set KICKBENCH_CACHE to a folder that you can write to and fetch the kernel "
            "again."
        ) from None


def _vmlinux(kernel: Bootable, folder: Path) -> Path:
    """The vmlinux inside the build's vmlinuz, or vmlinuz if it holds none that QEMU can boot.

    The file `vmlinuz-alone` records the latter, so that the next boot does not search again.
    """
    extracted = folder / "vmlinux"
    image_alone = folder / "vmlinuz-alone"
    if not extracted.exists() and not image_alone.exists():
        with _new(kernel) as new:
            if vmlinux.extract(kernel.vmlinuz, new / "vmlinux"):
                (new / "vmlinux").rename(extracted)
            else:
                image_alone.touch()
    return extracted if extracted.exists() else kernel.vmlinuz


def _initramfs(kernel: Bootable, folder: Path) -> Path:
    program = busybox()
    parts = (_INIT.read_bytes(), program.read_bytes(), repr((FIRST, THEN)).encode())
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts))
    packed = folder / f"initramfs-{digest.hexdigest()[:12]}.cpio"
    if not packed.exists():
        with _new(kernel) as new:
            root = new / "root"
            _fill(root, kernel, program)
            _pack(root, new / packed.name, program)
            (new / packed.name).rename(packed)
    return packed


def _new(kernel: Bootable) -> AbstractContextManager[Path]:
    """A temporary folder in the cache, from which complete files are moved to their place.

    The next call also removes folders that killed processes have left.
    """
    return Store(kernel.folder.parent).new_folder()


def busybox() -> Path:
    """The busybox that goes into the initramfs.

    :raise ProgramMissing: no statically linked busybox is installed.
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
        f"The lab's initramfs needs a statically linked busybox; {packages.advice('busybox')}."
    )


def _fill(root: Path, kernel: Bootable, busybox: Path) -> None:
    for name in ("bin", "modules", "proc", "sys", "dev", "lower", "layer", "root"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin" / "busybox")
    shutil.copyfile(_INIT, root / "init")
    (root / "init").chmod(0o755)
    modules = Modules(kernel.modules)
    first = modules.in_order(FIRST)
    then = [each for each in modules.in_order(THEN, optional=True) if each not in first]
    for name, listed in (("first", first), ("then", then)):
        unpacked = [module.name.split(".ko")[0] + ".ko" for module in listed]
        (root / "modules" / name).write_text("".join(f"{each}\n" for each in unpacked))
        for module, each in zip(listed, unpacked, strict=True):
            (root / "modules" / each).write_bytes(module_files.contents(module))


def _pack(root: Path, to: Path, busybox: Path) -> None:
    """Pack a folder into an initramfs: a cpio archive in the format "newc", uncompressed.

    :raise LabUnavailable: busybox failed, or did not end in time.
    """
    # The names are sorted, so that a folder comes before its contents.
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    with to.open("wb") as archive:
        try:
            done = subprocess.run(
                [busybox, "cpio", "-o", "-H", "newc"],
                cwd=root,
                input="".join(f"{name}\n" for name in names).encode(),
                stdout=archive,
                stderr=subprocess.PIPE,
                timeout=CPIO_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LabUnavailable(
                f"busybox did not pack the lab's initramfs within {CPIO_LIMIT_S:g} s. Check that "
                "the disk of the cache works, or install another busybox."
            ) from None
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace").strip()
        raise LabUnavailable(
            f"busybox cannot pack the lab's initramfs: {text}. Free some space in the cache, or "
            "install another busybox."
        )


class Modules:
    """The modules of a build, as depmod lists them."""

    def __init__(self, folder: Path) -> None:
        """:param folder: the build's folder lib/modules/RELEASE."""
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

    def in_order(self, names: Sequence[str], *, optional: bool = False) -> list[Path]:
        """The files of these modules and of their dependencies, each once, in loading order.

        :param names: the names of the modules; a module that is built into the kernel has no file.
        :param optional: leave out modules that the build does not have.
        :raise KernelUnusable: the build does not have one of the modules.
        """
        order: dict[Path, None] = {}
        for name in names:
            if name in self._needs:
                # modules.dep lists the module that must be loaded first last.
                order.update(dict.fromkeys(reversed(self._needs[name])))
            elif name not in self._builtin and not optional:
                raise KernelUnusable(
                    f"The lab cannot boot kernel {self._folder.name}, because the kernel has no "
                    f"module {name}; use a build with that module, or with it built in."
                )
        return list(order)
