"""The cache of kernels on a disk that fills up."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench_lib import errors
from tests import make
from tests.host.conftest import Command


@pytest.mark.parametrize("room_kib", [64, 1024])
def test_a_full_disk_leaves_nothing_half_filled(
    kickbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room_kib: int
) -> None:
    kernel = tmp_path / "kernel"
    vmlinuz = make.vmlinuz(kernel / "boot" / "vmlinuz")
    modules = make.modules(kernel / "lib" / "modules" / make.RELEASE)
    (modules / "kernel.ko").write_bytes(bytes(2 << 20))
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("KICKBENCH_CACHE", str(cache))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room_kib}k", "tmpfs", cache], check=True)
    try:
        done = kickbench("kernels", "add", str(vmlinuz))
        assert done.returncode == errors.FetchFailed.exit_status
        assert "No space left" in done.stderr
        progress, sentence = done.stderr.splitlines()
        assert progress == f"copying {vmlinuz} ..."
        assert sentence.startswith("kickbench: ")
        assert not list((cache / "kernels").iterdir())
    finally:
        subprocess.run(["umount", cache], check=True)
