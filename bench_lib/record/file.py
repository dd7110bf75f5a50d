# SPDX-License-Identifier: BSD-3-Clause
"""The record file: JSON Lines, one record a line, whole or not at all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec

from bench_lib.errors import RecordNotWritten, StoreError
from bench_lib.record import schema1
from bench_lib.record.names import ANSWERED
from bench_lib.record.parts import SCHEMA, Record


def to_line(record: Record) -> str:
    """A record as it stands in the file, without the newline."""
    return msgspec.json.encode(record).decode()


def from_line(line: str) -> Record:
    """What `to_line` gave.

    :raise StoreError: it is no record.
    """
    found = _decode(line.encode())
    if isinstance(found, _No):
        raise StoreError(f"{line[:60]!r} is {found.why}.")
    return found


def to_json(records: Sequence[Record]) -> str:
    """A JSON array, a record a line."""
    return "[" + ",\n ".join(map(to_line, records)) + "]"


@dataclass(frozen=True)
class Damage:
    """A line that is not a record. :ivar line: from 1. :ivar newer: it may be to later versions."""

    path: Path
    line: int
    why: str
    newer: bool = False

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.why}."


@cache
def _decoder() -> msgspec.json.Decoder[Record]:
    """Made when it is first needed, which in the lab it is not: there records are only written."""
    return msgspec.json.Decoder(Record)


@dataclass(frozen=True)
class _No:
    """Why a line is no record. :ivar newer: it may be one to later versions."""

    why: str
    newer: bool = False


def _decode(line: bytes) -> Record | _No:
    """A record, or why the line is none."""
    try:
        schema = msgspec.json.decode(line, type=dict[str, msgspec.Raw]).get("schema")
        number = msgspec.json.decode(schema, type=int) if schema else None
        if number is None:
            return _No("not a record: it names no schema")
        if number > SCHEMA:
            why = f"schema {number} is newer than the {SCHEMA} known here; update kickbench"
            return _No(why, newer=True)
        if number < schema1.SCHEMA:
            return _No(f"not a record: there is no schema {number}")
        record = schema1.decode(line) if number == schema1.SCHEMA else _decoder().decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return _No(f"not a whole record ({error})")
    if (flaw := _no_trial(record)) is not None:
        return _No(f"not a record of a trial: {flaw}")
    return record


def _no_trial(record: Record) -> str | None:
    """Why it cannot have been written by a trial; None if it can."""
    if record.deadline_ns <= 0:
        return "its deadline is not above 0"
    if (record.latency_ns is not None) != (record.outcome in ANSWERED):
        verb = "needs" if record.latency_ns is None else "cannot have"
        return f"{record.outcome} {verb} a latency"
    if record.latency_ns is not None and record.latency_ns < 0:
        return "its latency is below 0"
    return None


def read(path: Path) -> tuple[list[Record], list[Damage]]:
    """Every record of a file, oldest first, and what could not be read.

    A damaged line costs only itself. A file that does not exist holds no records.

    :raise StoreError: the file cannot be read.
    """
    records: list[Record] = []
    damaged: list[Damage] = []
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise StoreError(f"The record file {path} cannot be read: {error.strerror}.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        found = _decode(line)
        if isinstance(found, Record):
            records.append(found)
        else:
            damaged.append(Damage(path, number, found.why, found.newer))
    return records, damaged


def append(path: Path, *records: Record) -> None:
    """Append records, all or none of them, even beside another process that appends.

    After a line that an earlier death left unfinished it starts a new one.

    :raise RecordNotWritten: it could not be written; the file is as it was.
    """
    text = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
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
            f"({error.strerror}); the file is as it was before."
        ) from None
