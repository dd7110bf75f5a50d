# SPDX-License-Identifier: BSD-3-Clause
"""Extract the vmlinux from an x86 kernel image (bzImage).

The image is a decompressor with the compressed vmlinux as its payload. The setup header gives the
payload's place: Documentation/arch/x86/boot.rst, payload_offset.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment

from bench_lib.errors import FetchFailed
from bench_lib.kernel import archive

_SETUP_SECTORS_AT, _PAYLOAD_AT = 0x1F1, 0x248
_SECTOR = 512
_GZIP = b"\x1f\x8b"
# The size of vmlinux follows the payload, except with gzip, whose own format ends with the size.
_SIZE_BYTES = 4

# include/xen/interface/elfnote.h in Linux
_XEN, _PHYS32_ENTRY = "Xen", "18"  # a type that pyelftools has no name for


def extract(vmlinuz: Path, to: Path) -> bool:
    """Extract the vmlinux from an image.

    :param to: the file to write.
    :return: whether vmlinux could be decompressed, and QEMU can start it (see `starts_alone`).
    """
    data = vmlinuz.read_bytes()
    offset, length = struct.unpack_from("<II", data, _PAYLOAD_AT)
    start = ((data[_SETUP_SECTORS_AT] or 4) + 1) * _SECTOR + offset
    payload = data[start : start + length]
    if not payload.startswith(_GZIP):
        payload = payload[:-_SIZE_BYTES]
    with tempfile.NamedTemporaryFile(dir=to.parent) as packed:
        packed.write(payload)
        packed.flush()
        try:
            to.write_bytes(archive.decompressed(Path(packed.name)))
        except FetchFailed:  # libarchive does not know the compression
            return False
    return starts_alone(to)


def starts_alone(vmlinux: Path) -> bool:
    """Whether QEMU can start a vmlinux: whether the file has an ELF note with the PVH entry point.

    Kernels with CONFIG_PVH have this note.
    """
    try:
        with vmlinux.open("rb") as file:
            return any(
                note["n_name"] == _XEN and str(note["n_type"]) == _PHYS32_ENTRY
                for segment in ELFFile(file).iter_segments("PT_NOTE")
                if isinstance(segment, NoteSegment)
                for note in segment.iter_notes()
            )
    except (ELFError, OSError, OverflowError, ValueError):  # the file is damaged
        return False
