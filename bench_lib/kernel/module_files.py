# SPDX-License-Identifier: BSD-3-Clause
"""Read the files of kernel modules, and the lists of modules that a build has."""

from __future__ import annotations

import os
from pathlib import Path

from bench_lib.kernel import archive


def name(path: str) -> str:
    """The kernel's name of the module in a file such as kernel/net/9p/9pnet-virtio.ko.xz."""
    return path.rpartition("/")[2].split(".ko")[0].replace("-", "_")


def lines(file: Path) -> list[str]:
    """The lines of a list such as modules.builtin, whose names may be in any encoding."""
    return os.fsdecode(file.read_bytes()).splitlines()


def contents(file: Path) -> bytes:
    """The decompressed contents of a module's file.

    :raise FetchFailed: the file is damaged.
    :raise ProgramMissing: the file is compressed, and libarchive is not installed.
    """
    return file.read_bytes() if file.suffix == ".ko" else archive.decompressed(file)
