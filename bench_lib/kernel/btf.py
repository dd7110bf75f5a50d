# SPDX-License-Identifier: BSD-3-Clause
"""Whether KVM's slow page fault is interruptible, read from KVM's BTF without booting the kernel.

The answer is shown beside measurements and never decides anything, because only a measurement
shows what a kernel does.

Documentation/bpf/btf.rst describes BTF. A module's BTF is split: its types and strings are numbered
on from those of vmlinux, and it does not record where those end. The two starts can be inferred,
because they are the only pair for which the name of every function is a whole string and its type
is a prototype.
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
# Bytes that follow a type of each kind: a fixed number, or a number for each member.
_FIXED = {1: 4, 3: 12, 14: 4, 17: 4}
_EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}

# Linux commit c8b88b332bed ("kvm: Add interruptible flag to __gfn_to_pfn_memslot()"), in v6.2, gave
# that function an eighth parameter. From about v6.13 its place is taken by __kvm_faultin_pfn().
_OLD, _NEW = "__gfn_to_pfn_memslot", "__kvm_faultin_pfn"
_PARAMETERS = {7: "no", 8: "yes"}


SHOWN = Path("/sys/kernel/btf")
"""Where a running kernel exports its BTF and that of its modules."""


_UNREADABLE = (
    *(OSError, ELFError, FetchFailed, ProgramMissing),
    # From damaged BTF, in which offsets and sizes may have any value.
    *(struct.error, OverflowError, ValueError),
)


class Interruptible(StrEnum):
    """Whether KVM's slow page fault is interruptible, according to BTF."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


def interruptible(modules: Path, vmlinuz: Path | None = None) -> Interruptible:
    """The answer for a build.

    :param modules: the build's folder lib/modules/RELEASE.
    :param vmlinuz: the build's image, which is read if the build has no kvm.ko; None to skip it.
    """
    # A build has modules of one architecture only.
    if path := next(modules.glob("kernel/arch/*/kvm/kvm.ko*"), None):
        return _answer(lambda: _section(module_files.contents(path)), split=True)
    return _answer(lambda: _types_of(vmlinuz), split=False) if vmlinuz else Interruptible.UNKNOWN


def booted_interruptible(shown: Path = SHOWN) -> Interruptible:
    """The answer for the running kernel, from its exported BTF or else from its kvm.ko.

    :param shown: the folder of the exported BTF, which is `SHOWN` except in tests.
    """
    found = _answer((shown / "kvm").read_bytes, split=True)
    if found is Interruptible.UNKNOWN:  # KVM may be built into vmlinux
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
    """The BTF of the kernel in an image."""
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
    """The number of parameters of each of the wanted functions that the BTF has.

    :param split: whether types and strings are numbered on from those of vmlinux.
    """
    magic, _, _, length, type_at, type_size, string_at, string_size = _HEADER.unpack_from(btf)
    if magic != _MAGIC:
        raise ValueError("no BTF")
    types = btf[length + type_at : length + type_at + type_size]
    strings = btf[length + string_at : length + string_at + string_size]

    functions: list[tuple[int, int]] = []  # name and type, both counted from vmlinux's start
    prototypes: dict[int, int] = {}  # index of the type in this BTF: its number of parameters
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
        # Type 0 is void and has no entry.
        return {
            name: prototypes[kind_type - 1]
            for name in wanted
            if (place := strings.find(b"\0" + name.encode() + b"\0") + 1)
            for at, kind_type in functions
            if at == place
        }

    starts = {0} | {index + 1 for index, byte in enumerate(strings) if byte == 0}
    first_type = _start([each for _, each in functions], set(prototypes), number)
    found = {}
    for each in wanted:
        place = (b"\0" + strings).find(b"\0" + each.encode() + b"\0")
        if place < 0:
            continue
        first_string = _start([name for name, _ in functions], starts, string_size, place)
        for name, kind_type in functions:
            # If vmlinux has a prototype of the same shape, the module refers to that one.
            if name - first_string == place and kind_type - first_type in prototypes:
                found[each] = prototypes[kind_type - first_type]
    return found


def _start(references: list[int], valid: set[int], size: int, through: int | None = None) -> int:
    """The number at which this module's own numbers start: all references to them are valid then.

    :param references: numbers counted from vmlinux's start; numbers below the result are vmlinux's.
    :param valid: the valid numbers, counted from this module's start; all are below `size`.
    :param through: one of `valid` to which some reference is known to point.
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
        raise ValueError("no start fits")
    return best
