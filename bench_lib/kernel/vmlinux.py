# SPDX-License-Identifier: BSD-3-Clause
"""The kernel that an x86 image (bzImage) holds, compressed, behind a program that unpacks it.

The setup header says where it is: Documentation/arch/x86/boot.rst, payload_offset.
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
# The unpacked size follows what was not packed by gzip, which ends with it anyway.
_SIZE_BYTES = 4

# include/xen/interface/elfnote.h in Linux
_XEN, _PHYS32_ENTRY = "Xen", "18"  # a type that pyelftools has no name for


def extract(vmlinuz: Path, to: Path) -> bool:
    """Unpack the kernel of an image.

    :param to: the file to be written.
    :return: whether it is there, and can be started without the image (`starts_alone`).
    """
    data = vmlinuz.read_bytes()
    offset, length = struct.unpack_from("<II", data, _PAYLOAD_AT)
    begin = ((data[_SETUP_SECTORS_AT] or 4) + 1) * _SECTOR + offset
    payload = data[begin : begin + length]
    if not payload.startswith(_GZIP):
        payload = payload[:-_SIZE_BYTES]
    with tempfile.NamedTemporaryFile(dir=to.parent) as packed:
        packed.write(payload)
        packed.flush()
        try:
            to.write_bytes(archive.decompressed(Path(packed.name)))
        except FetchFailed:  # packed with something that libarchive does not know
            return False
    return starts_alone(to)


def starts_alone(vmlinux: Path) -> bool:
    """Whether QEMU can start a kernel that is not in an image: by PVH, whose entry a note gives.

    That is so of kernels with CONFIG_PVH.
    """
    try:
        with vmlinux.open("rb") as file:
            return any(
                note["n_name"] == _XEN and str(note["n_type"]) == _PHYS32_ENTRY
                for segment in ELFFile(file).iter_segments("PT_NOTE")
                if isinstance(segment, NoteSegment)
                for note in segment.iter_notes()
            )
    except (ELFError, OSError, OverflowError, ValueError):  # damaged ones lead nowhere
        return False
