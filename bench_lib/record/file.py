# SPDX-License-Identifier: BSD-3-Clause
"""The record file: JSON Lines, one record per line, each written whole or not at all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench_lib.errors import RecordNotWritten, StoreError
from bench_lib.record import schema1, schema2, stored
from bench_lib.record.names import ANSWERED
from bench_lib.record.parts import SCHEMA, Kernel, Record


def to_line(record: Record) -> str:
    """Encode a record as a line of the file, without the newline."""
    return stored.encode(record).decode()


def from_line(line: str) -> Record:
    """Decode what `to_line` returned.

    :raise StoreError: `line` is not a record.
    """
    found = _decode(line.encode())
    if isinstance(found, _NotARecord):
        raise StoreError(f"{line[:60]!r} is {found.why}.")
    return found


def to_json(records: Sequence[Record]) -> str:
    """Encode records as a JSON array with one record per line."""
    return "[" + ",\n ".join(map(to_line, records)) + "]"


@dataclass(frozen=True)
class Damage:
    """A line that is not a record.

    :ivar line: the number of the line, from 1.
    :ivar why: what is wrong with the line, as the end of a sentence.
    :ivar newer: whether a later version of kickbench may be able to read the line.
    """

    path: Path
    line: int
    why: str
    newer: bool = False

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.why}."


_DECODERS: dict[int, Callable[[bytes], Record]] = {
    schema1.SCHEMA: schema1.decode,
    schema2.SCHEMA: schema2.decode,
    SCHEMA: stored.decode,
}
"""The decoder of each schema."""


@dataclass(frozen=True)
class _NotARecord:
    """The reason why a line is not a record; see `Damage`."""

    why: str
    newer: bool = False


def _decode(line: bytes) -> Record | _NotARecord:
    """Decode a record, or return why the line is not one."""
    try:
        schema = msgspec.json.decode(line, type=dict[str, msgspec.Raw]).get("schema")
        number = msgspec.json.decode(schema, type=int) if schema else None
        if number is None:
            return _NotARecord("not a record: it has no schema")
        if number > SCHEMA:
            why = f"its schema {number} is newer than schema {SCHEMA}; update kickbench"
            return _NotARecord(why, newer=True)
        if number not in _DECODERS:
            return _NotARecord(f"not a record: there is no schema {number}")
        record = _DECODERS[number](line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return _NotARecord(f"not a whole record ({error})")
    if (flaw := _contradiction(record)) is not None:
        return _NotARecord(f"not a record of a trial: {flaw}")
    return record


def _contradiction(record: Record) -> str | None:
    """Return why no trial can have written this record, or None if one can."""
    if record.deadline_ns <= 0:
        return "its deadline is not above 0"
    if (record.latency_ns is not None) != (record.outcome in ANSWERED):
        verb = "needs" if record.latency_ns is None else "cannot have"
        return f"{record.outcome} {verb} a latency"
    if record.latency_ns is not None and record.latency_ns < 0:
        return "its latency is below 0"
    return None


def read(path: Path) -> tuple[list[Record], list[Damage]]:
    """Read every record of a file, oldest first, and list the lines that cannot be read.

    A damaged line does not affect other lines. A file that does not exist holds no records.

    :raise StoreError: the file cannot be read.
    """
    records: list[Record] = []
    damaged: list[Damage] = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        found = _decode(line)
        if isinstance(found, Record):
            records.append(found)
        else:
            damaged.append(Damage(path, number, found.why, found.newer))
    return records, damaged


class _OfKernel(msgspec.Struct):
    """The part of a record that says which kernel it is of."""

    kernel: Kernel


_OF_KERNEL = msgspec.json.Decoder(_OfKernel)
"""Made when this is imported, because threads use it, and msgspec may crash if several of them make
it at once."""


def lines_of(path: Path, kernels: Container[Kernel]) -> list[str]:
    """Return the lines of some kernels. Nothing else of them is read, so they may be damaged.

    :raise StoreError: the file cannot be read.
    """
    found = []
    for line in _lines(path):
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            if _OF_KERNEL.decode(line).kernel in kernels:
                found.append(line.decode())
    return found


def _lines(path: Path) -> list[bytes]:
    """Return the lines of a file; none if it does not exist.

    :raise StoreError: the file cannot be read.
    """
    try:
        return path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"The record file {path} cannot be read: {error.strerror}.") from None


def append(path: Path, *records: Record) -> None:
    """Append all of the records or none. Several processes may append at the same time.

    If a process died and left an unfinished line, the records start on a new line.

    :raise RecordNotWritten: the records could not be written; the file is unchanged.
    """
    text = b"".join(stored.encode(record) + b"\n" for record in records)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            size = os.lseek(fd, 0, os.SEEK_END)
            if size and os.pread(fd, 1, size - 1) != b"\n":
                text = b"\n" + text
            try:
                view = memoryview(text)
                while view:
                    view = view[os.write(fd, view) :]
                os.fdatasync(fd)
            except BaseException:
                os.ftruncate(fd, size)
                raise
        finally:
            os.close(fd)
    except OSError as error:
        raise RecordNotWritten(
            f"The record of trial {records[0].seq} could not be appended to {path} "
            f"({error.strerror}); the file is as it was before. Make room or check its rights, and "
            "run again."
        ) from None
