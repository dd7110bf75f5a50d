# SPDX-License-Identifier: BSD-3-Clause
"""What `kickbench kernels add` is given: packages, archives, a tree, an image with its modules."""

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
"""The root of the system whose installed kernels are added."""


def of_paths(cache: Store, paths: Sequence[Path]) -> Bootable:
    """Add the kernel whose parts some paths are.

    :raise UsageError: they are not the parts of one kernel.
    :raise KernelError: it cannot be used; the cache is as it was.
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
            with _watched(f"unpacking {present.count(len(files), 'archive')}") as on_bytes:
                return cache.add_archives(files, source, on_bytes)
    raise UsageError(
        "A kernel is a built tree, or an image with the folder of its modules, or packages or "
        "archives that make it up; these paths are none of that: "
        f"{', '.join(map(str, paths))}. Add each kernel by itself."
    )


def of_this_host(cache: Store) -> list[Bootable]:
    """Add the kernels that are installed here; those that cannot be used are named on stderr.

    :raise KernelUnusable: there is none that can be used.
    """
    found, unusable = installed.find(ROOT)
    added = []
    for each in found:
        try:
            with _watched(f"copying {each.vmlinuz.name}") as on_bytes:
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
def _watched(what: str) -> Iterator[Callable[[int, int], None]]:
    """With progress on stderr, and so that a signal leaves the cache as it was."""
    with interrupt.raised(), present.download(Console(stderr=True), what) as on_bytes:
        yield on_bytes


def _is_image(path: Path) -> bool:
    return path.is_file() and (
        path.name.startswith(("vmlinu", "bzImage")) or image.is_bzimage(path)
    )


def _of_folder(cache: Store, folder: Path) -> Bootable:
    """A kernel tree that was built, or a folder laid out as the root of a system."""
    if built_image(folder).is_file():
        with _watched(f"installing modules of {folder.name}"):
            return cache.add_tree(folder)
    found, unusable = installed.find(folder)
    if len(found) == 1:
        with _watched(f"copying {found[0].vmlinuz.name}") as on_bytes:
            return cache.add_image(found[0].vmlinuz, found[0].modules, on_bytes)
    if found:
        names = ", ".join(str(each.vmlinuz) for each in found)
        raise KernelUnusable(f"{folder} holds several kernels; name one of {names}.")
    raise (
        unusable[0]
        if unusable
        else KernelUnusable(
            f"{folder} is not a kernel tree that was built, because {built_image(folder)} is not "
            "there; run `make` in it first. Nor does it hold a kernel image with its modules."
        )
    )


def _of_image(cache: Store, vmlinuz: Path, *folders: Path) -> Bootable:
    """An image, and its modules in one of some folders.

    :param folders: each is lib/modules/RELEASE, or the root that it is in.
    """
    release = image.identity(vmlinuz).release
    beside = (layout.modules_of(folder, release) for folder in folders)
    if folders[0].name == release:
        modules: Path | None = folders[0]
    else:
        modules = next((each for each in beside if each is not None), None)
    if modules is None:
        where = folders[0] if len(folders) == 1 else "no folder above it"
        raise KernelUnusable(
            f"{vmlinuz} is kernel {release}, and {where} has no lib/modules/{release} or "
            f"usr/lib/modules/{release}; name the folder of its modules after it."
        )
    with _watched(f"copying {vmlinuz.name}") as on_bytes:
        return cache.add_image(vmlinuz, modules, on_bytes)
