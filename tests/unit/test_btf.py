import struct
from pathlib import Path

import pytest

from bench_lib.kernel import btf
from bench_lib.kernel.btf import Label

INT, FUNC, FUNC_PROTO = 1, 12, 13


def types_of(function: str, parameters: int) -> bytes:
    """What a kernel shows of a function, after another type; Documentation/bpf/btf.rst."""
    strings = b"\0int\0" + function.encode() + b"\0"
    types = struct.pack("<IIII", 1, INT << 24, 4, 32)
    types += struct.pack("<III", 0, FUNC_PROTO << 24 | parameters, 1)
    types += parameters * struct.pack("<II", 1, 1)
    types += struct.pack("<III", 5, FUNC << 24, 2)
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + strings


@pytest.mark.parametrize(
    ("function", "parameters", "label"),
    [
        ("__gfn_to_pfn_memslot", 7, Label.NO),
        ("__gfn_to_pfn_memslot", 8, Label.YES),
        ("__kvm_faultin_pfn", 2, Label.YES),
        ("__gfn_to_pfn_memslot_of_somebody_else", 8, Label.UNKNOWN),
    ],
)
def test_a_kernel_with_kvm_built_in(
    tmp_path: Path, function: str, parameters: int, label: Label
) -> None:
    (tmp_path / "vmlinux").write_bytes(types_of(function, parameters))
    assert btf.booted_label(tmp_path) is label


@pytest.mark.parametrize("text", [b"", b"no types", types_of("x", 1)[:40]])
def test_what_cannot_be_read_is_unknown(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "vmlinux").write_bytes(text)
    assert btf.booted_label(tmp_path) is Label.UNKNOWN
