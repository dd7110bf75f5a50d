# SPDX-License-Identifier: BSD-3-Clause
"""Files of kernel modules, and lists of them as a build has them."""

from __future__ import annotations

import os
from pathlib import Path

from bench_lib.kernel import archive


def name(path: str) -> str:
    """What the kernel calls the module of a file such as kernel/net/9p/9pnet-virtio.ko.xz."""
    return path.rpartition("/")[2].split(".ko")[0].replace("-", "_")


def lines(file: Path) -> list[str]:
    """The lines of a list such as modules.builtin, whose names may be in any encoding."""
    return os.fsdecode(file.read_bytes()).splitlines()


def contents(file: Path) -> bytes:
    """The module that a file holds, compressed or not.

    :raise FetchFailed: the file is damaged.
    :raise ProgramMissing: libarchive is needed and not installed.
    """
    return file.read_bytes() if file.suffix == ".ko" else archive.decompressed(file)
