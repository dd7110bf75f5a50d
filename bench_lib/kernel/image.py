# SPDX-License-Identifier: BSD-3-Clause
"""What a kernel image says of itself, read from the file."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from bench_lib.errors import KernelUnusable
from bench_lib.record import Kernel

# Documentation/arch/x86/boot.rst: the setup header of a bzImage.
_MAGIC_AT, _MAGIC = 0x202, b"HdrS"
_VERSION_POINTER_AT, _POINTER_BASE = 0x20E, 0x200
_LONGEST = 512
_SETUP_BYTES = 0x10000
# A release becomes the name of files.
_RELEASE = re.compile(r"\w[\w.+~-]*", re.ASCII)


def is_bzimage(path: Path) -> bool:
    """Whether a file is an x86 kernel image; no file that cannot be read is."""
    try:
        with path.open("rb") as file:
            return file.read(_SETUP_BYTES)[_MAGIC_AT : _MAGIC_AT + 4] == _MAGIC
    except OSError:
        return False


def identity(path: Path, called: str = "") -> Kernel:
    """Release and version of an x86 kernel image, the same that uname gives once it runs.

    :param called: what errors call the image; its path by default.
    :raise KernelUnusable: the file is no such image.
    """
    name = called or path
    try:
        with path.open("rb") as file:
            setup = file.read(_SETUP_BYTES)
    except OSError as error:
        raise KernelUnusable(f"{name} cannot be read: {error.strerror}.") from None
    if setup[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC or len(setup) < _VERSION_POINTER_AT + 2:
        raise KernelUnusable(f"{name} is not an x86 kernel image (bzImage).")
    (pointer,) = struct.unpack_from("<H", setup, _VERSION_POINTER_AT)
    begin = pointer + _POINTER_BASE
    text = setup[begin : begin + _LONGEST].split(b"\0")[0].decode(errors="replace")
    # "6.1.0-41-amd64 (who@where) #1 SMP PREEMPT_DYNAMIC Debian 6.1.158-1 (2025-11-09)"
    release, _, rest = text.partition(" ")
    number = rest.find("#")
    if not pointer or not _RELEASE.fullmatch(release) or number < 0:
        raise KernelUnusable(f"{name} does not say which kernel it is.")
    return Kernel(release, rest[number:])
