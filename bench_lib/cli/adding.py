# SPDX-License-Identifier: BSD-3-Clause
"""kickbench kernels add: from packages, archives, a built tree, or an image with its modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from bench_lib import interrupt, present
from bench_lib.errors import KernelUnusable, UsageError
from bench_lib.kernel import image, installed, layout
from bench_lib.kernel.store import Bootable, Store, built_image

ROOT = Path("/")
"""The root of the system whose installed kernels `of_this_host` adds."""


def of_paths(cache: Store, paths: Sequence[Path]) -> Bootable:
    """Add the kernel that consists of these files and folders.

    :raise UsageError: the paths are not the parts of one kernel.
    :raise KernelError: the kernel cannot be used; the cache is as it was before.
    """
    match [path.resolve() for path in paths]:
        case [folder] if folder.is_dir():
            return _of_folder(cache, folder)
        case [vmlinuz] if _is_image(vmlinuz):
            return _of_image(cache, vmlinuz, *vmlinuz.parents)
        case [vmlinuz, modules] if _is_image(vmlinuz) and modules.is_dir():
            return _of_image(cache, vmlinuz, modules)
        case files if all(path.is_file() and not _is_image(path) for path in files):
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            source = f"{files[0].name}{more}"
            with _in_progress(f"unpacking {present.count(len(files), 'archive')}") as on_bytes:
                return cache.add_archives(files, source, on_bytes)
    raise UsageError(
        f"These paths are not the parts of one kernel: {', '.join(map(str, paths))}. Name a built "
        "tree, an image and the folder of its modules, or the packages or archives of one kernel."
    )


def of_this_host(cache: Store) -> list[Bootable]:
    """Add the kernels that are installed on this host.

    Print on stderr which kernels cannot be used, and why.

    :raise KernelUnusable: no installed kernel can be used.
    """
    found, unusable = installed.find(ROOT)
    added = []
    for each in found:
        try:
            with _in_progress(f"copying {each.vmlinuz.name}") as on_bytes:
                added.append(cache.add_image(each.vmlinuz, each.modules, on_bytes))
        except KernelUnusable as error:
            unusable.append(error)
    if not added:
        reasons = " ".join(map(str, unusable)) or "There is no image in /boot or lib/modules."
        raise KernelUnusable(f"No kernel of this host can be added. {reasons}")
    for why in unusable:
        click.echo(f"kickbench: left out: {why}", err=True)
    return added


@contextmanager
def _in_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress on stderr. A signal raises an exception, which leaves the cache as it was.

    :return: a function to be called with the bytes that are done and those in all.
    """
    with interrupt.raised(), present.download(Console(stderr=True), what) as on_bytes:
        yield on_bytes


def _is_image(path: Path) -> bool:
    return path.is_file() and (
        path.name.startswith(("vmlinu", "bzImage")) or image.is_bzimage(path)
    )


def _of_folder(cache: Store, folder: Path) -> Bootable:
    """Add the kernel of a built tree, or of a folder laid out as the root of a system."""
    if built_image(folder).is_file():
        with _in_progress(f"installing modules of {folder.name}"):
            return cache.add_tree(folder)
    found, unusable = installed.find(folder)
    if len(found) == 1:
        with _in_progress(f"copying {found[0].vmlinuz.name}") as on_bytes:
            return cache.add_image(found[0].vmlinuz, found[0].modules, on_bytes)
    if found:
        names = ", ".join(str(each.vmlinuz) for each in found)
        raise KernelUnusable(f"{folder} has several kernels; name one of {names}.")
    raise (
        unusable[0]
        if unusable
        else KernelUnusable(
            f"{folder} is not a built kernel tree, because {built_image(folder)} does not exist, "
            "and it has no kernel image with modules. In a kernel tree, run `make` in it first."
        )
    )


def _of_image(cache: Store, vmlinuz: Path, *folders: Path) -> Bootable:
    """Add a kernel image with its modules.

    :param folders: where to look for the modules. Each is lib/modules/RELEASE itself, or a root
        that may contain it.
    """
    release = image.identity(vmlinuz).release
    beside = (layout.modules_of(folder, release) for folder in folders)
    if folders[0].name == release:
        modules: Path | None = folders[0]
    else:
        modules = next((each for each in beside if each is not None), None)
    if modules is None:
        where = f"{folders[0]} has no" if len(folders) == 1 else "no folder above it has"
        raise KernelUnusable(
            f"{vmlinuz} is kernel {release}, and {where} lib/modules/{release} or "
            f"usr/lib/modules/{release}; give the folder of its modules as the second path."
        )
    with _in_progress(f"copying {vmlinuz.name}") as on_bytes:
        return cache.add_image(vmlinuz, modules, on_bytes)
