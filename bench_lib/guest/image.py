# SPDX-License-Identifier: BSD-3-Clause
"""Guest images: the manifest, and the parameters that an image is given at start."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench_lib.errors import ImageError
from bench_lib.record import Entry

PAGE = 4096
MIB = 1 << 20


@dataclass(frozen=True)
class Parameters:
    """Guest-physical addresses. :ivar pages: of the span, in pages."""

    pages: int
    vcpus: int


@dataclass(frozen=True)
class Image:
    """An entry of the manifest.

    :ivar file: the built image, beside the manifest.
    :ivar source: what it is built from.
    :ivar sha256: of the built image.
    :ivar entry: how its vCPUs get stuck on a page that does not arrive; None where the image does
        not prescribe it, because kernels differ in what they touch first.
    :ivar span_start: the first byte that its loop touches; it touches every page from there to
        the end of memory.
    :ivar parameters: guest-physical addresses of the 64-bit words that it is given at start.
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
    """An image that has been checked, and where it lies."""

    path: Path
    entry: Image

    def pages(self, memory_mib: int) -> int:
        """How many pages the span has in a guest with this much memory."""
        return (memory_mib * MIB - self.entry.span_start) // PAGE

    def qemu_arguments(self, memory_mib: int, vcpus: int) -> list[str]:
        """The part of QEMU's command line that makes a guest of this image.

        Of each parameter only the lower half is loaded, because the upper one is 0, as fresh memory
        is. QEMU 5.2 aborts when it is to load all eight bytes (generic_loader_reset() asserts that
        there are fewer); 7.2 does not.
        """
        addresses = self.entry.parameters
        return [
            "-bios",
            str(self.path),
            "-device",
            f"loader,addr={addresses.pages:#x},data={self.pages(memory_mib)},data-len=4",
            "-device",
            f"loader,addr={addresses.vcpus:#x},data={vcpus},data-len=4",
        ]


def manifest(folder: Path) -> dict[str, Image]:
    """All images by name.

    :param folder: of the images and their manifest.json.
    :raise ImageError: there is no manifest, or it cannot be read.
    """
    path = folder / "manifest.json"
    try:
        images = msgspec.json.decode(path.read_bytes(), type=list[Image])
    except (OSError, msgspec.MsgspecError) as error:
        raise ImageError(f"The manifest of guest images {path} cannot be read: {error}.") from None
    return {image.name: image for image in images}


def load(folder: Path, name: str) -> LoadedImage:
    """An image, checked against the manifest.

    :raise ImageError: it is unknown, missing, or not the one that the manifest describes.
    """
    images = manifest(folder)
    if name not in images:
        raise ImageError(f"There is no guest image {name!r}; there is {', '.join(images)}.")
    entry = images[name]
    path = folder / entry.file
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ImageError(f"The guest image {path} cannot be read: {error.strerror}.") from None
    if found != entry.sha256:
        raise ImageError(
            f"The guest image {path} is not the one in the manifest (sha256 {found[:12]}... "
            f"instead of {entry.sha256[:12]}...); restore it from version control."
        )
    return LoadedImage(path, entry)
