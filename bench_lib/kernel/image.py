# SPDX-License-Identifier: BSD-3-Clause
"""Read the release and the version of a kernel from its image."""

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
# The release becomes part of file names, so it may contain only these characters.
_RELEASE = re.compile(r"\w[\w.+~-]*", re.ASCII)


def is_bzimage(path: Path) -> bool:
    """Whether a file is a readable x86 kernel image."""
    try:
        with path.open("rb") as file:
            return file.read(_SETUP_BYTES)[_MAGIC_AT : _MAGIC_AT + 4] == _MAGIC
    except OSError:
        return False


def identity(path: Path, called: str = "") -> Kernel:
    """The release and version of an x86 kernel image, as uname(2) gives them when it runs.

    :param called: the name of the image in errors; its path by default.
    :raise KernelUnusable: the file cannot be read, or is not an x86 kernel image.
    """
    name = called or path
    try:
        with path.open("rb") as file:
            setup = file.read(_SETUP_BYTES)
    except OSError as error:
        raise KernelUnusable(f"{name} cannot be read: {error.strerror}.") from None
    if setup[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC or len(setup) < _VERSION_POINTER_AT + 2:
        raise KernelUnusable(
            f"{name} is not an x86 kernel image; the lab boots images of the format bzImage."
        )
    (pointer,) = struct.unpack_from("<H", setup, _VERSION_POINTER_AT)
    start = pointer + _POINTER_BASE
    text = setup[start : start + _LONGEST].split(b"\0")[0].decode(errors="replace")
    # "6.1.0-41-amd64 (who@where) #1 SMP PREEMPT_DYNAMIC Debian 6.1.158-1 (2025-11-09)"
    release, _, rest = text.partition(" ")
    number = rest.find("#")
    if not pointer or not _RELEASE.fullmatch(release) or number < 0:
        raise KernelUnusable(
            f"The setup header of {name} has no kernel version, so the image is damaged or not of "
            "a Linux kernel; build or fetch it again."
        )
    return Kernel(release, rest[number:])
