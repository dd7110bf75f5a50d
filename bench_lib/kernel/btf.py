# SPDX-License-Identifier: BSD-3-Clause
"""What kvm.ko's type information says of the flag, without booting anything.

Shown beside what a kernel does, and never used to decide: behaviour decides.

BTF is described in Documentation/bpf/btf.rst. A module's is split: its types and strings go on
where those of vmlinux end, and it does not say where that is. It can be found out: there is one
pair of beginnings for which every function's name is a whole string and its type a prototype.
"""

from __future__ import annotations

import io
import os
import struct
import tempfile
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from bench_lib.errors import FetchFailed, ProgramMissing
from bench_lib.kernel import module_files, vmlinux

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_FUNC, _FUNC_PROTO = 12, 13
# Bytes behind a type: a fixed number, or one for each of its members.
_FIXED = {1: 4, 3: 12, 14: 4, 17: 4}
_EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}

# Since Linux kernel commit c8b88b332bed ("kvm: Add interruptible flag to __gfn_to_pfn_memslot()")
# (in v6.2) that function has eight parameters; from about v6.13 it is __kvm_faultin_pfn().
_OLD, _NEW = "__gfn_to_pfn_memslot", "__kvm_faultin_pfn"
_PARAMETERS = {7: "no", 8: "yes"}


SHOWN = Path("/sys/kernel/btf")
"""Where a kernel shows its types and those of its modules."""


_UNREADABLE = (
    *(OSError, ELFError, FetchFailed, ProgramMissing),
    # Of a damaged one, whose offsets and sizes may be any.
    *(struct.error, OverflowError, ValueError),
)


class Interruptible(StrEnum):
    """Whether KVM's slow page fault is interruptible, by its types."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


def interruptible(modules: Path, vmlinuz: Path | None = None) -> Interruptible:
    """What the types of a build say.

    :param modules: its folder lib/modules/RELEASE.
    :param vmlinuz: its image, which has KVM where no module is KVM; None if that is not looked at.
    """
    # There is one architecture's, the build's own.
    if path := next(modules.glob("kernel/arch/*/kvm/kvm.ko*"), None):
        return _answer(lambda: _section(module_files.contents(path)), split=True)
    return _answer(lambda: _types_of(vmlinuz), split=False) if vmlinuz else Interruptible.UNKNOWN


def booted_interruptible(shown: Path = SHOWN) -> Interruptible:
    """That of the kernel that runs, which shows its types; KVM may be built into it."""
    found = _answer((shown / "kvm").read_bytes, split=True)
    if found is Interruptible.UNKNOWN:
        found = _answer((shown / "vmlinux").read_bytes, split=False)
    return (
        interruptible(Path("/lib/modules") / os.uname().release)
        if found is Interruptible.UNKNOWN
        else found
    )


def _answer(read: Callable[[], bytes], *, split: bool) -> Interruptible:
    try:
        functions = _functions(read(), (_OLD, _NEW), split=split)
    except _UNREADABLE:
        return Interruptible.UNKNOWN
    if _NEW in functions:
        return Interruptible.YES
    return Interruptible(_PARAMETERS.get(functions.get(_OLD, -1), Interruptible.UNKNOWN))


def _types_of(vmlinuz: Path) -> bytes:
    """The types of an image, which holds the kernel compressed."""
    with tempfile.TemporaryDirectory() as folder:
        kernel = Path(folder, "vmlinux")
        vmlinux.extract(vmlinuz, kernel)
        return _section(kernel.read_bytes())


def _section(module: bytes) -> bytes:
    section = ELFFile(io.BytesIO(module)).get_section_by_name(".BTF")
    if section is None:
        raise ValueError("no BTF")
    return bytes(section.data())


def _functions(btf: bytes, wanted: Iterable[str], *, split: bool) -> dict[str, int]:
    """The number of parameters of each of `wanted` that is a function here.

    :param split: whether they go on from vmlinux's.
    """
    magic, _, _, length, type_at, type_size, string_at, string_size = _HEADER.unpack_from(btf)
    if magic != _MAGIC:
        raise ValueError("no BTF")
    types = btf[length + type_at : length + type_at + type_size]
    strings = btf[length + string_at : length + string_at + string_size]

    functions: list[tuple[int, int]] = []  # name and type, both from vmlinux's beginning
    prototypes: dict[int, int] = {}  # number of the type here: parameters
    position = number = 0
    while position < len(types):
        name, info, kind_type = _TYPE.unpack_from(types, position)
        kind, members = info >> 24 & 0x1F, info & 0xFFFF
        if kind == _FUNC:
            functions.append((name, kind_type))
        elif kind == _FUNC_PROTO:
            prototypes[number] = members
        position += _TYPE.size + _FIXED.get(kind, 0) + _EACH.get(kind, 0) * members
        number += 1

    if not split:
        # Type 0 is void and stands nowhere.
        return {
            name: prototypes[kind_type - 1]
            for name in wanted
            if (place := strings.find(b"\0" + name.encode() + b"\0") + 1)
            for at, kind_type in functions
            if at == place
        }

    begins = {0} | {index + 1 for index, byte in enumerate(strings) if byte == 0}
    first_type = _beginning([each for _, each in functions], set(prototypes), number)
    found = {}
    for each in wanted:
        place = (b"\0" + strings).find(b"\0" + each.encode() + b"\0")
        if place < 0:
            continue
        first_string = _beginning([name for name, _ in functions], begins, string_size, place)
        for name, kind_type in functions:
            # Where vmlinux has a prototype of that shape, the module has none of its own.
            if name - first_string == place and kind_type - first_type in prototypes:
                found[each] = prototypes[kind_type - first_type]
    return found


def _beginning(
    references: list[int], valid: set[int], size: int, through: int | None = None
) -> int:
    """Where this module's numbers begin, so that all references to them are valid.

    :param references: numbers from vmlinux's beginning; those below the result are vmlinux's own.
    :param valid: what they may be, from this module's beginning; all are below `size`.
    :param through: one of `valid` that some reference is known to mean.
    """
    best, most = -1, 0
    highest = max(references)
    if through is None:
        candidates = {highest - place for place in valid}
    else:
        candidates = {each - through for each in references}
    for candidate in candidates:
        ours = [each - candidate for each in references if each >= candidate]
        if len(ours) > most and max(ours) < size and valid.issuperset(ours):
            best, most = candidate, len(ours)
    if best < 0:
        raise ValueError("no beginning fits")
    return best
