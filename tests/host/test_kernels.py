# SPDX-License-Identifier: BSD-3-Clause
"""The cache of kernels on a disk that fills up."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench_lib import errors
from tests import make
from tests.host.conftest import Command


def _image(kernel: Path) -> tuple[Path, str]:
    vmlinuz = kernel / "boot" / "vmlinuz"
    return vmlinuz, "copying vmlinuz"


def _package(kernel: Path) -> tuple[Path, str]:
    return make.package(kernel), "unpacking 1 archive"


def _rpm(kernel: Path) -> tuple[Path, str]:
    return make.rpm(kernel, "kernel"), "unpacking 1 archive"


# The smallest disk does not even have room for the Debian package itself.
@pytest.mark.parametrize("room_kib", [8, 64, 1024])
@pytest.mark.parametrize("made", [_image, _package, _rpm])
def test_a_full_disk_leaves_no_partial_build(
    kickbench: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    made: Callable[[Path], tuple[Path, str]],
    room_kib: int,
) -> None:
    kernel = tmp_path / "kernel"
    make.vmlinuz(kernel / "boot" / "vmlinuz")
    modules = make.modules(kernel / "lib" / "modules" / make.RELEASE)
    (modules / "kernel.ko").write_bytes(random.Random(1).randbytes(2 << 20))
    file, what = made(kernel)
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("KICKBENCH_CACHE", str(cache))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room_kib}k", "tmpfs", cache], check=True)
    try:
        done = kickbench("kernels", "add", str(file))
        assert done.returncode == errors.FetchFailed.exit_status
        assert "No space left" in done.stderr
        progress, sentence = done.stderr.splitlines()
        assert progress == f"{what} ..."
        assert sentence.startswith("kickbench: ")
        assert not list((cache / "kernels").iterdir())
    finally:
        subprocess.run(["umount", cache], check=True)
