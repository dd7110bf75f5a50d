# SPDX-License-Identifier: BSD-3-Clause
"""An initramfs with one program, as a cpio archive of the format "newc".

The archive depends on the program alone, so that it is the same on every host. The format is
described in Documentation/driver-api/early-userspace/buffer-format.rst of Linux.
"""

from __future__ import annotations

MAGIC = b"070701"

FOLDER, CHARACTER_DEVICE, FILE = 0o040755, 0o020600, 0o100755
"""File types and modes, as in stat(2)."""

END = b"TRAILER!!!"


def packed(program: bytes) -> bytes:
    """Return an initramfs whose /init is `program`.

    It also has /dev/console, which the kernel opens for process 1.
    """
    return b"".join(
        (
            _entry(1, b"dev", FOLDER),
            _entry(2, b"dev/console", CHARACTER_DEVICE, device=(5, 1)),
            _entry(3, b"init", FILE, program),
            _entry(0, END, 0),
        )
    )


def _entry(
    inode: int, name: bytes, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
) -> bytes:
    # Inode, mode, owner, group, links, time, size, device of the file system, device that the file
    # is, length of the name, checksum.
    numbers = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
    header = MAGIC + b"".join(b"%08x" % number for number in numbers)
    return _aligned(header + name + b"\0") + _aligned(data)


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
