# SPDX-License-Identifier: BSD-3-Clause
"""What gdb says to programs: a small part of gdb/MI's output syntax, line by line.

See "GDB/MI Output Syntax" in gdb's manual. Of a record, the results up to the
first list or tuple are taken apart; an error has none of these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_STRING = rb'"((?:[^"\\]|\\.)*)"'
_STREAM = re.compile(rb"~" + _STRING)
_RECORD = re.compile(rb"[0-9]*([*^=])([a-z-]+)(,.*)?")
_RESULT = re.compile(rb",([A-Za-z_-]+)=" + _STRING)
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|.)", re.DOTALL)
_CONTROL = {
    b"a": b"\a", b"b": b"\b", b"e": b"\x1b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t",
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    """A result (`^`) or something that has happened (`*`, `=`).

    :ivar kind: with that character, as in `^done`.
    :ivar strings: its results up to the first that is no string, by name.
    """

    kind: str
    strings: Mapping[str, str]


def record(line: bytes) -> Record | None:
    """What a line says, or None if it is no record."""
    match = _RECORD.fullmatch(line.rstrip())
    if match is None:
        return None
    strings = {}
    results, at = match[3] or b"", 0
    while (result := _RESULT.match(results, at)) is not None:
        strings[result[1].decode()] = _text(result[2])
        at = result.end()
    return Record((match[1] + match[2]).decode(), strings)


def console(line: bytes) -> str | None:
    """What a line shows to people, or None if it is something else."""
    match = _STREAM.fullmatch(line.rstrip())
    return _text(match[1]).rstrip("\n") if match else None


def _text(quoted: bytes) -> str:
    """What stands between the quotes of a C string."""

    def character(match: re.Match[bytes]) -> bytes:
        escaped = match[1]
        if escaped[:1] in b"01234567":
            return bytes([int(escaped, 8) & 0xFF])
        return _CONTROL.get(escaped, escaped)

    return _ESCAPE.sub(character, quoted).decode(errors="replace")
