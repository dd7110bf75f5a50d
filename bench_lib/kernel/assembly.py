# SPDX-License-Identifier: BSD-3-Clause
"""Check that unpacked files are one complete kernel, and lay them out as the cache does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench_lib.errors import KernelUnusable
from bench_lib.kernel import archive, image, layout, module_files
from bench_lib.kernel.missing import Lack, hint
from bench_lib.record import Kernel

NEEDED = {
    "virtio_pci": "for virtio devices",
    "9p": "to mount this host's userland",
    "9pnet_virtio": "to mount this host's userland",
    "overlay": "to keep changes to that userland in memory",
    "virtio_console": "to talk to kickbench",
    "kvm": "to run guests",
    "veth": "to connect guests",
}
"""The modules that a kernel needs to run trials in the lab, and their purposes."""

BUILT_IN = "modules.builtin"
"""The list of the modules that are built into a kernel. Debian 14 packages it apart from the
modules."""


def assemble(folder: Path, source: str, files: Sequence[Path]) -> Kernel:
    """Check that a folder holds one kernel with its modules, and lay it out as the cache does.

    :param folder: has images and modules in the folders that `layout` names; afterwards it has
        boot/vmlinuz-RELEASE and lib/modules/RELEASE.
    :param source: a description of where the kernel came from, for messages.
    :param files: the archives that the kernel came from; none for an image or a tree.
    :raise KernelUnusable: the lab cannot run trials under this kernel.
    :raise FetchFailed: a module is damaged.
    """
    images = sorted((folder / layout.IMAGES).glob("*"))
    releases = {path.name for path in (folder / layout.MODULES).glob("*")}
    if not images:
        raise _without_image(source, releases, files)
    found = {image.identity(path, f"{layout.shown(path)} of {source}"): path for path in images}
    if len(found) > 1:
        raise _several(source, [f"{each.release} {each.version}" for each in found])
    ((kernel, vmlinuz),) = found.items()
    _check_releases(kernel.release, releases, source, files)
    modules = folder / layout.MODULES / kernel.release
    _check_modules(modules, kernel.release, files)
    _decompress(modules)

    boot = folder / "boot"
    boot.mkdir()
    vmlinuz.rename(boot / f"vmlinuz-{kernel.release}")
    for path in images:
        path.unlink(missing_ok=True)
    (folder / layout.IMAGES).rmdir()
    return kernel


def _without_image(source: str, releases: set[str], files: Sequence[Path]) -> KernelUnusable:
    release = next(iter(releases), "")
    if release:
        what = f"has modules of {release}, but no kernel image"
    else:
        what = "contains no modules and no kernel image"
    return KernelUnusable(
        f"{source} {what} (boot/vmlinuz-RELEASE or lib/modules/RELEASE/vmlinuz)."
        f"{hint(files, Lack.IMAGE if release else Lack.ALL, release)}"
    )


def _several(source: str, kernels: Sequence[str]) -> KernelUnusable:
    return KernelUnusable(
        f"{source} contains {len(kernels)} kernels: {', '.join(sorted(kernels))}. "
        "Add one kernel at a time, from packages or an archive of that kernel alone."
    )


def _check_releases(release: str, releases: set[str], source: str, files: Sequence[Path]) -> None:
    """Refuse a kernel without modules, or with modules of another release than the image's."""
    if not releases:
        raise KernelUnusable(
            f"Kernel {release} comes without modules: {source} has no lib/modules/{release} and no "
            f"usr/lib/modules/{release}.{hint(files, Lack.MODULES, release)}"
        )
    if release not in releases:
        raise KernelUnusable(
            f"The image in {source} is kernel {release}, but the modules are of "
            f"{', '.join(sorted(releases))}. Pass an image and modules of the same release."
        )
    if len(releases) > 1:
        raise _several(source, sorted(releases))


def _check_modules(folder: Path, release: str, files: Sequence[Path]) -> None:
    """Refuse a build that lacks a module of `NEEDED`."""
    names = {module_files.name(path.name) for path in folder.rglob("*.ko*")}
    if (folder / BUILT_IN).exists():
        names |= {module_files.name(line) for line in module_files.lines(folder / BUILT_IN)}
    if missing := [name for name in NEEDED if name not in names]:
        reasons = ", ".join(f"{name} ({NEEDED[name]})" for name in missing)
        lack = Lack.SOME_MODULES if "kvm" in names else Lack.MODULES
        unlisted = (
            ""
            if (folder / BUILT_IN).exists()
            else f" It also has no {BUILT_IN}, which lists the modules that are built in."
        )
        raise KernelUnusable(
            f"Kernel {release} cannot run trials in the lab: it has no {reasons}.{unlisted}"
            f"{hint(files, lack, release)}"
        )


def _decompress(folder: Path) -> None:
    """Decompress the modules that kmod or busybox may be unable to read.

    Both read .xz, but Debian's kmod does not read .gz, and other builds of kmod do not read .zst.
    """
    for path in sorted([*folder.rglob("*.ko.zst"), *folder.rglob("*.ko.gz")]):
        path.with_suffix("").write_bytes(archive.decompressed(path))
        path.unlink()
