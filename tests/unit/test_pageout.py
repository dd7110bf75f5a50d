# SPDX-License-Identifier: BSD-3-Clause
"""What pushing out a guest's memory reads from the kernel, and the swap device that it needs."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bench_lib.errors import StorageFailed
from bench_lib.storage import pageout, pusher, swap
from bench_lib.storage.pageout import Area, StoppedGuest

SMAPS = """\
55d0c0a00000-55d0c0a21000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
Rss:                 100 kB
Swap:                  8 kB
SwapPss:               8 kB
VmFlags: rd wr mr mw me ac sd
7f13f16e9000-7f13f26e9000 rw-s 00000000 00:01 2060       /memfd:memory-backend-memfd (deleted)
Size:              16384 kB
Rss:               14356 kB
Swap:               1024 kB
SwapPss:            1024 kB
VmFlags: rd wr sh mr mw me ms sd
7fca3ae00000-7fca3be00000 rw-p 00000000 00:00 0\x20
Size:              16384 kB
Rss:                   0 kB
Swap:              14356 kB
SwapPss:           14356 kB
THPeligible:           1
VmFlags: rd wr mr mw me ac sd hg
7fca3be00000-7fca3be01000 ---p 00000000 00:00 0\x20
Size:                  4 kB
Rss:                   0 kB
Swap:                  0 kB
VmFlags: mr mw me sd
"""

MEMFD = Area(
    0x7F13F16E9000, 16 << 20, "/memfd:memory-backend-memfd (deleted)", 14356 << 10, 1024 << 10
)
ANONYMOUS = Area(0x7FCA3AE00000, 16 << 20, "", 0, 14356 << 10)


def test_the_writable_areas_of_a_process_are_read_from_its_smaps() -> None:
    heap = Area(0x55D0C0A00000, 132 << 10, "[heap]", 100 << 10, 8 << 10)
    assert pageout.areas(SMAPS) == [heap, MEMFD, ANONYMOUS]


@pytest.mark.parametrize("area", [MEMFD, ANONYMOUS])
def test_the_memory_of_a_guest_is_the_only_area_with_its_size_and_name(
    monkeypatch: pytest.MonkeyPatch, area: Area
) -> None:
    guest = StoppedGuest(1, -1)
    monkeypatch.setattr(Path, "read_text", lambda path: SMAPS)
    assert guest.memory(16 << 20, area.name) == area
    with pytest.raises(StorageFailed, match="QEMU has 0 mappings"):
        guest.memory(32 << 20, area.name)
    monkeypatch.setattr(Path, "read_text", lambda path: SMAPS * 2)
    with pytest.raises(StorageFailed, match="QEMU has 2 mappings"):
        guest.memory(16 << 20, area.name)


def test_a_file_is_cached_once_it_has_been_written(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(8 * mmap.PAGESIZE)
        file.write(bytes(2 * mmap.PAGESIZE))
        file.flush()
        assert pusher.cached(file.fileno(), 0, 8 * mmap.PAGESIZE) == 2 * mmap.PAGESIZE
        assert pusher.cached(file.fileno(), mmap.PAGESIZE, 7 * mmap.PAGESIZE) == mmap.PAGESIZE


def test_the_header_of_a_swap_device_is_that_of_mkswap(tmp_path: Path) -> None:
    file = tmp_path / "swap"
    with file.open("wb") as made:
        made.truncate(1 << 20)
    program = shutil.which("mkswap", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert program is not None
    none = "00000000-0000-0000-0000-000000000000"
    subprocess.run([program, "--uuid", none, file], check=True, capture_output=True)
    header = swap.header(1 << 20)
    assert header == file.read_bytes()[: len(header)]
