# SPDX-License-Identifier: BSD-3-Clause
"""The form of a record in the record file and in `--json`, since schema 3.

Many threads of a guest have the same kernel stack. So each stack is stored once, and a thread has
the index of its stack. Keys of a thread that have their default are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from threading import Lock
from typing import Annotated, Any

import msgspec

from bench_lib.record import parts

FIRST_SCHEMA = 3
"""The first schema with this form. Older records have the form of `parts`, or of `schema1`."""

Index = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True)
class Thread(parts.Thread):
    """One thread of QEMU, which has the index of its stack."""

    stack: Index  # type: ignore[assignment]


@dataclass(frozen=True)
class Evidence(parts.Evidence):
    """What the kernel showed of QEMU's threads.

    :ivar stacks: all different stacks of the threads.
    """

    before: tuple[Thread, ...] = ()
    after: tuple[Thread, ...] = ()
    stacks: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Record(parts.Record):
    """One trial."""

    evidence: Evidence = field(default_factory=Evidence)


_DEFAULTS = {"signals": (), "called": False, "cpu_ns": 0}
"""The keys of a thread that are left out if they have these values."""


def encode(record: parts.Record) -> bytes:
    """Encode a record. One of an older schema keeps the form that it was read from."""
    if record.schema < FIRST_SCHEMA:
        return msgspec.json.encode(record)
    numbers: dict[tuple[str, ...], int] = {}
    evidence: dict[str, Any] = msgspec.to_builtins(record.evidence)
    for moment in ("before", "after"):
        for thread in evidence[moment]:
            thread["stack"] = numbers.setdefault(tuple(thread["stack"]), len(numbers))
            for name, default in _DEFAULTS.items():
                if thread[name] == default:
                    del thread[name]
    return msgspec.json.encode({**vars(record), "evidence": {**evidence, "stacks": list(numbers)}})


_making = Lock()
"""Held while the decoder is made, because msgspec may crash if several threads do that at once."""


def _decoder() -> msgspec.json.Decoder[Record]:
    """Make the decoder when it is first needed. In a lab it never is: records are only written."""
    with _making:
        return _made()


@cache
def _made() -> msgspec.json.Decoder[Record]:
    return msgspec.json.Decoder(Record)


def decode(line: bytes) -> parts.Record:
    """Decode what `encode` returned.

    :raise msgspec.MsgspecError: `line` is not a whole record.
    """
    found = _decoder().decode(line)
    seen = found.evidence
    evidence = parts.Evidence(
        tuple(_whole(each, seen.stacks) for each in seen.before),
        tuple(_whole(each, seen.stacks) for each in seen.after),
        seen.pending,
        seen.blocker,
    )
    return parts.Record(**{**vars(found), "evidence": evidence})


def _whole(thread: Thread, stacks: tuple[tuple[str, ...], ...]) -> parts.Thread:
    """:raise msgspec.ValidationError: there is no such stack."""
    if thread.stack >= len(stacks):
        raise msgspec.ValidationError(
            f"a thread has stack {thread.stack}, and there are {len(stacks)}"
        )
    return parts.Thread(**{**vars(thread), "stack": stacks[thread.stack]})
