# SPDX-License-Identifier: BSD-3-Clause
"""Guest images: the manifest, and the parameters that QEMU loads into an image at the start."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench_lib.errors import ImageError
from bench_lib.record import Entry

PAGE = 4096
MIB = 1 << 20

SPLIT_FROM_MIB, SPLIT_AT_MIB = 3584, 3072
"""The size of memory, in MiB, from which QEMU's machine type `pc` puts a part of it at 4 GiB, and
the size of the part that stays below the hole then (pc_init1() in hw/i386/pc_piix.c)."""


@dataclass(frozen=True)
class Parameters:
    """The guest-physical addresses of an image's parameters.

    :ivar pages: the address of the span's length in pages.
    :ivar vcpus: the address of the number of vCPUs.
    :ivar low_pages: the address of the number of pages of memory below the hole.
    """

    pages: int
    vcpus: int
    low_pages: int


@dataclass(frozen=True)
class Image:
    """An entry of the manifest.

    :ivar file: the name of the built image, in the folder of the manifest.
    :ivar source: the name of the source file.
    :ivar sha256: the hash of the built image.
    :ivar entry: how the vCPUs get stuck on a page that does not arrive; None if the image does not
        prescribe it, because kernels differ in what they touch first.
    :ivar span_start: the address of the span, the memory whose every page the image's loop touches.
        The span ends at the end of memory.
    :ivar parameters: the guest-physical addresses of the 64-bit words that QEMU loads at the start.
    """

    name: str
    file: str
    source: str
    sha256: str
    entry: Entry | None
    span_start: int
    parameters: Parameters


@dataclass(frozen=True)
class LoadedImage:
    """An image that has been checked against the manifest.

    :ivar path: the file of the image.
    :ivar entry: its entry in the manifest.
    """

    path: Path
    entry: Image

    def pages(self, memory_mib: int) -> int:
        """Return how many pages the span has in a guest with this much memory."""
        return (memory_mib * MIB - self.entry.span_start) // PAGE

    def qemu_arguments(self, memory_mib: int, vcpus: int) -> list[str]:
        """Return the part of QEMU's command line that makes a guest run this image.

        Only the lower half of each parameter is loaded; the upper half is 0, like all fresh memory.
        QEMU 5.2 aborts if it has to load all eight bytes, because generic_loader_reset() asserts
        that there are fewer; QEMU 7.2 does not abort.
        """
        addresses = self.entry.parameters
        values = {
            addresses.pages: self.pages(memory_mib),
            addresses.vcpus: vcpus,
            addresses.low_pages: low_mib(memory_mib) * MIB // PAGE,
        }
        arguments = ["-bios", str(self.path)]
        for address, value in values.items():
            arguments += ["-device", f"loader,addr={address:#x},data={value},data-len=4"]
        return arguments


def low_mib(memory_mib: int) -> int:
    """Return how much of a guest's memory is below the hole for devices, in MiB."""
    return memory_mib if memory_mib < SPLIT_FROM_MIB else SPLIT_AT_MIB


def manifest(folder: Path) -> dict[str, Image]:
    """Read the manifest, and return all images by name.

    :param folder: the folder of the images and of manifest.json.
    :raise ImageError: there is no manifest, or it cannot be read.
    """
    path = folder / "manifest.json"
    try:
        images = msgspec.json.decode(path.read_bytes(), type=list[Image])
    except (OSError, msgspec.MsgspecError) as error:
        raise ImageError(f"The manifest of guest images {path} cannot be read: {error}.") from None
    return {image.name: image for image in images}


def load(folder: Path, name: str) -> LoadedImage:
    """Find an image, and check it against the manifest.

    :raise ImageError: the image is unknown, missing, or not the one that the manifest describes.
    """
    images = manifest(folder)
    if name not in images:
        raise ImageError(f"There is no guest image {name!r}; the images are {', '.join(images)}.")
    entry = images[name]
    path = folder / entry.file
    checked(path, entry.sha256, "The guest image")
    return LoadedImage(path, entry)


def checked(path: Path, sha256: str, what: str) -> bytes:
    """Read a file of a guest, and check it against its manifest.

    :param sha256: the hash in the manifest.
    :param what: what the file is, as the beginning of an error.
    :raise ImageError: the file is missing, or is not the one that the manifest describes.
    """
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{what} {path} cannot be read: {error.strerror}.") from None
    found = hashlib.sha256(contents).hexdigest()
    if found != sha256:
        raise ImageError(
            f"{what} {path} is not the one in the manifest (sha256 {found[:12]}... instead of "
            f"{sha256[:12]}...); restore it from version control."
        )
    return contents
