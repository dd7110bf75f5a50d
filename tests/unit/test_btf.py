# SPDX-License-Identifier: BSD-3-Clause
import struct
import subprocess
from pathlib import Path

import pytest

from bench_lib.kernel import btf
from bench_lib.kernel.btf import Interruptible
from tests import make

INT, FUNC, FUNC_PROTO = 1, 12, 13


def types_of(function: str, parameters: int) -> bytes:
    """The BTF of a kernel with one type and one function; see Documentation/bpf/btf.rst."""
    strings = b"\0int\0" + function.encode() + b"\0"
    types = struct.pack("<IIII", 1, INT << 24, 4, 32)
    types += struct.pack("<III", 0, FUNC_PROTO << 24 | parameters, 1)
    types += parameters * struct.pack("<II", 1, 1)
    types += struct.pack("<III", 5, FUNC << 24, 2)
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + strings


@pytest.mark.parametrize(
    ("function", "parameters", "interruptible"),
    [
        ("__gfn_to_pfn_memslot", 7, Interruptible.NO),
        ("__gfn_to_pfn_memslot", 8, Interruptible.YES),
        ("__kvm_faultin_pfn", 2, Interruptible.YES),
        ("__gfn_to_pfn_memslot_of_somebody_else", 8, Interruptible.UNKNOWN),
    ],
)
def test_a_kernel_with_kvm_built_in(
    tmp_path: Path, function: str, parameters: int, interruptible: Interruptible
) -> None:
    (tmp_path / "vmlinux").write_bytes(types_of(function, parameters))
    assert btf.booted_interruptible(tmp_path) is interruptible


@pytest.mark.parametrize(
    "parameters, interruptible", [(7, Interruptible.NO), (8, Interruptible.YES)]
)
@pytest.mark.parametrize("packed", [["gzip", "-c"], ["xz", "--check=crc32", "-c"], ["zstd", "-qc"]])
def test_an_image_with_kvm_built_in(
    tmp_path: Path, parameters: int, interruptible: Interruptible, packed: list[str]
) -> None:
    (tmp_path / "types").write_bytes(types_of("__gfn_to_pfn_memslot", parameters))
    (tmp_path / "empty.c").touch()
    for command in (
        ["gcc", "-c", "empty.c", "-o", "empty.o"],
        ["objcopy", "--add-section", ".BTF=types", "empty.o", "vmlinux"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True)
    payload = subprocess.run(
        packed, input=(tmp_path / "vmlinux").read_bytes(), stdout=subprocess.PIPE, check=True
    ).stdout
    if packed[0] != "gzip":  # gzip itself ends with the size
        payload += struct.pack("<I", (tmp_path / "vmlinux").stat().st_size)
    image = bytearray(make.vmlinuz(tmp_path / "vmlinuz").read_bytes())
    # One sector of setup code after the first; the payload follows the present contents.
    image[0x1F1] = 1
    struct.pack_into("<II", image, 0x248, len(image) - 2 * 512, len(payload))
    (tmp_path / "vmlinuz").write_bytes(image + payload)
    assert btf.interruptible(tmp_path / "modules", tmp_path / "vmlinuz") is interruptible


def test_an_image_without_a_kernel_is_unknown(tmp_path: Path) -> None:
    assert btf.interruptible(tmp_path, make.vmlinuz(tmp_path / "vmlinuz")) is Interruptible.UNKNOWN


@pytest.mark.parametrize("text", [b"", b"no types", types_of("x", 1)[:40]])
def test_what_cannot_be_read_is_unknown(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "vmlinux").write_bytes(text)
    assert btf.booted_interruptible(tmp_path) is Interruptible.UNKNOWN
