# SPDX-License-Identifier: BSD-3-Clause
"""Which records of two kernels may be compared, and which not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench_lib.errors import CannotCompare
from bench_lib.record import SCHEMA, SCORED, Host, Kernel, Key, Outcome, Record, ScenarioName
from bench_lib.units import NS_PER_S
from bench_lib.verdict.summary import SETUP_FIELDS, said

HOST_FIELDS = ("cpu", "cpus", "governor", "turbo", "smt")
"""Of a set-up, what is the host's and not the kernel's choice."""

OTHER_FIELDS = tuple(each for each in SETUP_FIELDS if each not in {*HOST_FIELDS, "memory_mib"})
"""The rest, which a kernel may bring with it; but for memory, of which each leaves another part."""

ONE_KIND = "What is native and what a lab measured is never compared; measure both in one way."

WHATEVER = "--whatever-differs compares them all the same."


def scored(record: Record) -> bool:
    """Whether a trial says something about the host.

    In schema 1 a refusal did not, and records of that schema are judged as they always were.
    """
    return record.outcome in SCORED and not _unclear(record)


def _unclear(record: Record) -> bool:
    """Whether a trial of an older schema could be another outcome today.

    What returned or hung then does so today as well. What was lost then may count as a hang or a
    death today, and what was refused counted as lost.
    """
    return record.schema < SCHEMA and record.outcome in {Outcome.LOST, Outcome.REFUSED}


@dataclass(frozen=True)
class Match:
    """The records of one key under either kernel."""

    key: Key
    base: tuple[Record, ...]
    candidate: tuple[Record, ...]


@dataclass(frozen=True)
class Matches:
    """All of them.

    :ivar left_out: hosts of which there are records of one kernel alone.
    :ivar alone: what is recorded of the candidate there.
    :ivar notes: what else the two were made with, where that differs, in words.
    """

    matches: tuple[Match, ...]
    left_out: tuple[Host, ...]
    alone: tuple[Record, ...]
    notes: tuple[str, ...]


ByKey = dict[Key, list[Record]]


def check_alike(records: Sequence[Record], base: Kernel, candidate: Kernel) -> None:
    """Whatever there is of both kernels was made with the same; nothing is missed that is not.

    :raise CannotCompare: it was not.
    """
    sides = [_grouped(records, kernel, anywhere=False) for kernel in (base, candidate)]
    for key in sides[0].keys() | sides[1].keys():
        found = (tuple(side.get(key, ())) for side in sides)
        _check_match(Match(key, *found))


def matched(
    records: Sequence[Record], base: Kernel, candidate: Kernel, *, whatever_differs: bool = False
) -> Matches:
    """Match the records of two kernels.

    :param whatever_differs: take all hosts of a kind for one, and look at no QEMU or setting.
    :raise CannotCompare: there is nothing to compare, or it was made on differing things.
    """
    if base == candidate:
        raise CannotCompare(f"{base.release} is on both sides; name two kernels.")
    sides = [_grouped(records, kernel, anywhere=whatever_differs) for kernel in (base, candidate)]
    for kernel, side in zip((base, candidate), sides, strict=True):
        if not side:
            raise CannotCompare(
                f"There are no records of {kernel.release}; `kickbench lab campaign "
                f"{base.release} {candidate.release}` makes some."
            )
    hosts = [{key.host for key in side} for side in sides]
    both = hosts[0] & hosts[1]
    if not both:
        ours, theirs = (_listed(map(host_name, each)) for each in hosts)
        kinds = [{(host.kind, host.accelerator) for host in each} for each in hosts]
        raise CannotCompare(
            f"{base.release} and {candidate.release} were measured on differing hosts: {ours} and "
            f"{theirs}. " + (WHATEVER if kinds[0] & kinds[1] else ONE_KIND)
        )
    for (kernel, side), (other, has) in (
        ((candidate, sides[1]), (base, sides[0])),
        ((base, sides[0]), (candidate, sides[1])),
    ):
        if missing := [key for key in has if key.host in both and key not in side]:
            raise CannotCompare(
                f"{kernel.release} lacks what {other.release} has: "
                f"{_listed(key.name for key in missing)}."
            )
    matches = tuple(
        Match(key, tuple(found), tuple(sides[1][key]))
        for key, found in sides[0].items()
        if key.host in both
    )
    if not whatever_differs:
        for match in matches:
            _check_match(match)
    return Matches(
        matches,
        tuple(sorted((hosts[0] | hosts[1]) - both, key=host_name)),
        tuple(each for key, found in sides[1].items() if key.host not in both for each in found),
        _notes(matches),
    )


def host_name(host: Host) -> str:
    """For people."""
    return f"{host.machine} ({host.kind}, {host.accelerator})"


def _grouped(records: Iterable[Record], kernel: Kernel, *, anywhere: bool) -> ByKey:
    side: ByKey = {}
    for record in records:
        if record.kernel == kernel:
            key = record.key
            if anywhere:
                host = dataclasses.replace(key.host, machine="any host")
                key = dataclasses.replace(key, host=host)
            side.setdefault(key, []).append(record)
    return side


def _check_match(match: Match) -> None:
    """:raise CannotCompare: not all of the records were made with the same."""
    check_schemas([*match.base, *match.candidate])
    read: tuple[tuple[str, Callable[[Record], object]], ...] = (
        ("QEMUs", lambda record: record.qemu),
        ("guest images", lambda record: record.image_sha256),
        ("deadlines", lambda record: f"{record.deadline_ns / NS_PER_S:g} s"),
        *((f"settings of {name}", _of_setup("setup", name)) for name in HOST_FIELDS),
        *((f"settings of the lab's {name}", _of_setup("lab_setup", name)) for name in HOST_FIELDS),
        # There alone it is the means that says how bad it is.
        ("outages", lambda record: record.scenario is ScenarioName.DEGRADED and record.outage),
    )
    for what, of in read:
        found = {of(record) for record in (*match.base, *match.candidate)} - {None, False}
        if len(found) > 1:
            raise CannotCompare(
                f"The records of {match.key.name} were made with differing {what}: "
                f"{_listed(found)}. {WHATEVER}"
            )


def check_schemas(records: Sequence[Record], schemas: Iterable[int] = ()) -> None:
    """Refuse records of several schemas where their outcomes may not mean the same.

    That is where a record of an older schema is lost or refused; see `_unclear`.

    :param schemas: of records that are still to be added to these.
    :raise CannotCompare: there are such records.
    """
    if len({record.schema for record in records} | set(schemas)) < 2:
        return
    if unclear := [record for record in records if _unclear(record)]:
        names = _listed({each.key.name for each in unclear})
        raise CannotCompare(
            f"Of {names} there are trials ({len(unclear)}) that an older kickbench recorded as "
            "lost or refused, and that might count as hangs or refusals today. Measure both "
            f"kernels anew, into a record file of its own (KICKBENCH_RECORDS). {WHATEVER}"
        )


def _notes(matches: Sequence[Match]) -> tuple[str, ...]:
    """Settings that may be the kernels' own choice, or not, and that differ between them."""
    notes = []
    for name in OTHER_FIELDS:
        ours, theirs = (
            sorted(
                {
                    said(getattr(record.setup, name))
                    for match in matches
                    for record in (match.base if side == 0 else match.candidate)
                    if record.setup is not None
                }
            )
            for side in (0, 1)
        )
        if ours and theirs and ours != theirs:
            what = name.replace("_", " ")
            notes.append(f"{what}: {' / '.join(ours)} -> {' / '.join(theirs)}")
    return tuple(notes)


def _of_setup(which: str, name: str) -> Callable[[Record], object]:
    def read(record: Record) -> object:
        value = getattr(getattr(record, which), name, None)
        return None if value is None else str(value)

    return read


def _listed(values: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, values)))
