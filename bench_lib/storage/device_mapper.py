# SPDX-License-Identifier: BSD-3-Clause
"""A block device of the device mapper, which can be suspended.

The ioctls are those of linux/dm-ioctl.h. dmsetup(8) would do the same, but it waits for udev, which
a lab does not have.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from bench_lib.errors import StorageFailed

CONTROL = Path("/dev/mapper/control")

SECTOR = 512

_HEADER = struct.Struct("=3I 2I I i 2I I Q 128s 129s 7x")
"""struct dm_ioctl, with its padding."""
_TARGET = struct.Struct("=2Q i I 16s")
"""struct dm_target_spec."""

_VERSION = (4, 0, 0)
_CREATE, _REMOVE, _SUSPEND, _LOAD = 3, 4, 6, 9
_SUSPENDS, _SKIPS_LOCKFS, _NO_FLUSH = 1 << 1, 1 << 10, 1 << 11


class LinearDevice:
    """A device that passes everything to the beginning of another device.

    :ivar path: the device file.
    """

    def __init__(self, name: str, below: Path, sectors: int) -> None:
        """:raise StorageFailed: the kernel refused to make the device."""
        self._name = name
        made = self._ask(_CREATE)
        # The number is as in new_encode_dev() of linux/kdev_t.h.
        minor = made & 0xFF | made >> 12 & 0xFFF00
        self.path = Path(f"/dev/dm-{minor}")
        try:
            # The parameters end with a NUL, and the next target would start at a multiple of 8.
            parameters = f"{below} 0\0".encode()
            parameters += bytes(-len(parameters) % 8)
            length = _TARGET.size + len(parameters)
            target = _TARGET.pack(0, sectors, 0, length, b"linear")
            self._ask(_LOAD, after=target + parameters, targets=1)
            self.resume()
        except BaseException:
            self.remove()
            raise

    def suspend(self) -> None:
        """Keep back what is read or written from now on.

        Nothing is written out before, because a file system would wait for that.
        """
        self._ask(_SUSPEND, _SUSPENDS | _SKIPS_LOCKFS | _NO_FLUSH)

    def resume(self) -> None:
        """Undo `suspend`, also for what has been kept back. A second call does nothing."""
        self._ask(_SUSPEND)

    def remove(self) -> None:
        """Remove the device.

        :raise StorageFailed: it is in use.
        """
        self._ask(_REMOVE)

    def _ask(self, number: int, flags: int = 0, *, after: bytes = b"", targets: int = 0) -> int:
        """Make an ioctl, and return the device's number."""
        size = _HEADER.size + len(after)
        header = _HEADER.pack(
            *_VERSION, size, _HEADER.size, targets, 0, flags, 0, 0, 0, self._name.encode(), b""
        )
        buffer = bytearray(header + after)
        request = 3 << 30 | _HEADER.size << 16 | 0xFD << 8 | number
        control = -1
        try:
            control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
            fcntl.ioctl(control, request, buffer)
        except OSError as error:
            raise StorageFailed(
                f"The device mapper refused ioctl {number} on {self._name}: {error.strerror}."
            ) from None
        finally:
            if control >= 0:
                os.close(control)
        return int(_HEADER.unpack_from(buffer)[10])
