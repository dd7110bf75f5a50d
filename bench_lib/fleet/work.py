# SPDX-License-Identifier: BSD-3-Clause
"""What the coordinator gives a host to do: the trials of one boot. All of it travels as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar, cast

import msgspec

from bench_lib.record import Kernel
from bench_lib.trial.case import Case

T = TypeVar("T")


class Kind(StrEnum):
    """Where the trials of a boot are made."""

    HOST = "host"
    """Under the kernel that the host has booted. Only that host can do it."""
    LAB = "lab"
    """In a lab. Any host with room can do it, unless the campaign binds it to one."""


@dataclass(frozen=True)
class Work:
    """The trials of one boot.

    :ivar kernel: the kernel that has to be booted, on the host or in the lab.
    :ivar limit_s: seconds after which the host ends the work, because it would never end by itself.
    :ivar settings: environment variables for the process that makes the trials.
    """

    kind: Kind
    kernel: Kernel
    cases: tuple[Case, ...]
    limit_s: float
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What became of the trials of one boot.

    :ivar lines: the records of the whole boot, as `record.to_line` encodes them; empty if the boot
        failed.
    :ivar failure: why the boot failed, as a sentence; None if it did not.
    :ivar busy: whether it failed only because another run was measuring on the host.
    :ivar by_kernel: whether it failed because of its kernel, which the host could not get or has
        not booted, and not because of the host.
    """

    lines: tuple[str, ...] = ()
    failure: str | None = None
    busy: bool = False
    by_kernel: bool = False


@dataclass(frozen=True)
class Finding:
    """A row of the doctor that is not fine."""

    name: str
    status: str
    sentence: str


@dataclass(frozen=True)
class Examined:
    """What the doctor found on a host.

    :ivar kinds: the kinds of work that the host can do.
    """

    kinds: tuple[Kind, ...]
    findings: tuple[Finding, ...] = ()
    failure: str | None = None


def to_json(value: Work | Result | Examined | Sequence[Work]) -> str:
    """Encode a value for the other end."""
    return msgspec.json.encode(value).decode()


_DECODERS: dict[type, msgspec.json.Decoder[object]] = {
    kind: msgspec.json.Decoder(kind) for kind in (Work, Result, Examined)
}
"""Made when this is imported: msgspec crashes the process if several threads decode a dataclass for
the first time at once, as the threads of a worker with room for several labs do."""


def from_json(text: str, kind: type[T]) -> T:
    """Decode what `to_json` returned.

    :raise msgspec.MsgspecError: it is not such a value.
    """
    return cast(T, _DECODERS[kind].decode(text))
