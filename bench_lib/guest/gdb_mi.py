# SPDX-License-Identifier: BSD-3-Clause
"""A parser for a small part of gdb/MI, line by line. See "GDB/MI Output Syntax" in gdb's manual.

In a record, only the results before the first list or tuple are parsed. Errors have neither.
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
    """A result record (`^`), or an asynchronous record (`*`, `=`).

    :ivar kind: the class of the record with its first character, such as `^done`.
    :ivar strings: the values by name, up to the first value that is not a string.
    """

    kind: str
    strings: Mapping[str, str]


def record(line: bytes) -> Record | None:
    """Parse a line, or return None if it is not a record."""
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
    """Return the text of a console output line, or None if it is another line."""
    match = _STREAM.fullmatch(line.rstrip())
    return _text(match[1]).rstrip("\n") if match else None


def _text(quoted: bytes) -> str:
    """Decode what is between the quotes of a C string."""

    def character(match: re.Match[bytes]) -> bytes:
        escaped = match[1]
        if escaped[:1] in b"01234567":
            return bytes([int(escaped, 8) & 0xFF])
        return _CONTROL.get(escaped, escaped)

    return _ESCAPE.sub(character, quoted).decode(errors="replace")
