# SPDX-License-Identifier: BSD-3-Clause
"""Match the records of two kernels, and refuse those that must not be compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench_lib.errors import CannotCompare
from bench_lib.record import SCORED, Host, Kernel, Key, Outcome, Record, ScenarioName, schema1
from bench_lib.units import NS_PER_S
from bench_lib.verdict.summary import SETUP_FIELDS, STORAGE_FIELDS, setup_fields, shown

HOST_FIELDS = ("cpu", "cpus", "governor", "turbo", "smt")
"""Fields of a set-up that the host chooses, and not the kernel."""

OTHER_FIELDS = tuple(
    each for each in (*SETUP_FIELDS, *STORAGE_FIELDS) if each not in {*HOST_FIELDS, "memory_mib"}
)
"""Fields of a set-up that a kernel may choose. Memory is not among them, because each kernel leaves
a different part of it."""

ONE_KIND = (
    "Native records and those of a lab are never compared, nor are those of kvm and tcg; measure "
    "both kernels in one way."
)

WHATEVER = "--whatever-differs compares them nevertheless."


def scored(record: Record) -> bool:
    """Whether a trial measured something.

    In schema 1 a refusal measured nothing, and records of that schema are judged as they always
    were.
    """
    return record.outcome in SCORED and not _unclear(record)


def _unclear(record: Record) -> bool:
    """Whether the outcome of a trial of schema 1 might be a different one today.

    A trial that returned or hung would do so today as well. A trial that was lost might count as a
    hang or a death today. A refusal counted as lost.
    """
    return record.schema == schema1.SCHEMA and record.outcome in {Outcome.LOST, Outcome.REFUSED}


@dataclass(frozen=True)
class Match:
    """The records of one key under both kernels."""

    key: Key
    base: tuple[Record, ...]
    candidate: tuple[Record, ...]


@dataclass(frozen=True)
class Untried:
    """Trials under one kernel that were not tried (`Record.tried`), for one reason.

    :ivar names: what they would have measured, as `Key.name` has it.
    """

    kernel: Kernel
    reason: str
    trials: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        """Return them in words: not tried under 6.1.0-55-amd64: stop in fuse-hold (reason)."""
        return f"not tried under {self.kernel.release}: {_listed(self.names)} ({self.reason})"


@dataclass(frozen=True)
class Matches:
    """All matches of two kernels.

    :ivar left_out: hosts on which only one of the kernels was measured.
    :ivar alone: the candidate's records that have no counterpart, by host: those on such hosts, and
        those of keys that were not tried under the baseline.
    :ivar notes: settings that differ between the kernels and may be their choice, in words.
    :ivar untried: the trials that were not tried under either kernel.
    :ivar missed: the keys that only the baseline was tried with.
    """

    matches: tuple[Match, ...]
    left_out: tuple[Host, ...]
    alone: dict[Host, list[Record]]
    notes: tuple[str, ...]
    untried: tuple[Untried, ...]
    missed: tuple[Key, ...]


ByKey = dict[Key, list[Record]]


def check_alike(records: Sequence[Record], base: Kernel, candidate: Kernel) -> None:
    """Check that the records of each key were made in one way. A kernel may lack a key.

    :raise CannotCompare: records of one key were made in different ways.
    """
    ours, theirs = (_grouped(records, kernel, anywhere=False) for kernel in (base, candidate))
    for key in ours.keys() | theirs.keys():
        _check_match(Match(key, tuple(ours.get(key, ())), tuple(theirs.get(key, ()))))


def matched(
    records: Sequence[Record], base: Kernel, candidate: Kernel, *, whatever_differs: bool = False
) -> Matches:
    """Match the records of two kernels. Trials that were not tried are left out.

    :param whatever_differs: treat all hosts of a kind as one, and ignore QEMUs and settings.
    :raise CannotCompare: there is nothing to compare, or records were made in different ways.
    """
    if base == candidate:
        raise CannotCompare(
            f"{base.release} is both the baseline and the candidate; name two kernels."
        )
    kernels = base, candidate
    by_key = [_grouped(records, kernel, anywhere=whatever_differs) for kernel in kernels]
    not_tried = [
        _grouped(records, kernel, anywhere=whatever_differs, tried=False) for kernel in kernels
    ]
    untried = tuple(
        each
        for kernel, found in zip(kernels, not_tried, strict=True)
        for each in _untried(kernel, found)
    )
    for kernel, found in zip(kernels, by_key, strict=True):
        if not found:
            if reasons := [str(each) for each in untried if each.kernel == kernel]:
                raise CannotCompare(
                    f"No trial of {kernel.release} was tried, so there is nothing to compare; "
                    f"{'; '.join(reasons)}."
                )
            raise CannotCompare(
                f"There are no records of {kernel.release}; `kickbench lab campaign "
                f"{base.release} {candidate.release}` makes some."
            )
    hosts = [{key.host for key in found} for found in by_key]
    both = hosts[0] & hosts[1]
    if not both:
        ours, theirs = (_listed(map(host_name, each)) for each in hosts)
        kinds = [{(host.kind, host.accelerator) for host in each} for each in hosts]
        raise CannotCompare(
            f"{base.release} and {candidate.release} were measured on different hosts: {ours} and "
            f"{theirs}. " + (WHATEVER if kinds[0] & kinds[1] else ONE_KIND)
        )
    # The first of these is the baseline's keys that the candidate lacks.
    lacking = [
        [key for key in others if key.host in both and key not in found]
        for found, others in ((by_key[1], by_key[0]), (by_key[0], by_key[1]))
    ]
    for keys, kernel, other, skipped in (
        (lacking[0], candidate, base, not_tried[1]),
        (lacking[1], base, candidate, not_tried[0]),
    ):
        if missing := [key for key in keys if key not in skipped]:
            raise CannotCompare(
                f"{kernel.release} lacks trials that {other.release} has: "
                f"{_listed(key.name for key in missing)}. Measure it in the same cases."
            )
    matches = tuple(
        Match(key, tuple(found), tuple(by_key[1][key]))
        for key, found in by_key[0].items()
        if key.host in both and key in by_key[1]
    )
    if not matches:
        raise CannotCompare(
            f"Nothing was tried under both kernels; {'; '.join(map(str, untried))}."
        )
    if not whatever_differs:
        for match in matches:
            _check_match(match)
    alone: dict[Host, list[Record]] = {}
    for key, made in by_key[1].items():
        if key.host not in both or key in lacking[1]:
            alone.setdefault(key.host, []).extend(made)
    return Matches(
        matches,
        tuple(sorted((hosts[0] | hosts[1]) - both, key=host_name)),
        alone,
        _notes(matches),
        untried,
        tuple(lacking[0]),
    )


def _untried(kernel: Kernel, not_tried: ByKey) -> Iterator[Untried]:
    """Yield the trials of a kernel that were not tried, by reason."""
    by_reason: dict[str, list[str]] = {}
    for key, found in not_tried.items():
        for each in found:
            by_reason.setdefault((each.reason or "no reason given").rstrip("."), []).append(
                key.name
            )
    for reason, names in by_reason.items():
        yield Untried(kernel, reason, len(names), tuple(dict.fromkeys(names)))


def host_name(host: Host) -> str:
    """Return the name of a host as tables and sentences have it."""
    return f"{host.machine} ({host.kind}, {host.accelerator})"


def _grouped(
    records: Iterable[Record], kernel: Kernel, *, anywhere: bool, tried: bool = True
) -> ByKey:
    """Return the records of a kernel by key.

    :param anywhere: whether all hosts of a kind count as one.
    :param tried: whether to return the trials that were tried, or those that were not.
    """
    found: ByKey = {}
    for record in records:
        if record.kernel == kernel and record.tried is tried:
            key = record.key
            if anywhere:
                host = dataclasses.replace(key.host, machine="any host")
                key = dataclasses.replace(key, host=host)
            found.setdefault(key, []).append(record)
    return found


def _check_match(match: Match) -> None:
    """:raise CannotCompare: the records were made in different ways."""
    check_schemas([*match.base, *match.candidate])
    _check_machines(match)
    read: tuple[tuple[str, Callable[[Record], object]], ...] = (
        ("QEMUs", lambda record: record.qemu),
        ("QEMUs of the lab", lambda record: record.lab_qemu),
        ("libvirts", lambda record: record.manager_version),
        ("guest images", lambda record: record.image_sha256),
        ("stores", lambda record: record.store),
        ("guest kernels", lambda record: record.guest_kernel and shown(record.guest_kernel)),
        ("deadlines", lambda record: f"{record.deadline_ns / NS_PER_S:g} s"),
        *((f"settings of {name}", _of_setup("setup", name)) for name in HOST_FIELDS),
        *((f"settings of the lab's {name}", _of_setup("lab_setup", name)) for name in HOST_FIELDS),
        # Only in this scenario does the mechanism of the outage determine how bad it is.
        ("outages", lambda record: record.scenario is ScenarioName.DEGRADED and record.outage),
    )
    for what, of in read:
        found = {of(record) for record in (*match.base, *match.candidate)} - {None, False}
        if len(found) > 1:
            raise CannotCompare(
                f"The records of {match.key.name} were made with different {what}: "
                f"{_listed(found)}. {WHATEVER}"
            )


def _check_machines(match: Match) -> None:
    """Refuse native records of two machines that have one name, such as clones of one image.

    The records of labs are not refused: a lab that runs in a container has the id of the container,
    and CI starts a new one for each job.

    :raise CannotCompare: the records have more than one machine id.
    """
    host = match.key.host
    found = {each.machine_id for each in (*match.base, *match.candidate)} - {None}
    if host.kind == "native" and len(found) > 1:
        raise CannotCompare(
            f"The records of {match.key.name} on {host_name(host)} are of {len(found)} machines "
            f"that have one name (their machine ids are {_listed(found)}). Give each machine a "
            "name of its own, and measure again or keep the records of each machine in a separate "
            f"record file (KICKBENCH_RECORDS). {WHATEVER}"
        )


def check_schemas(records: Sequence[Record], schemas: Iterable[int] = ()) -> None:
    """Refuse records of several schemas if their outcomes may have different meanings.

    That is the case if a trial of schema 1 was lost or refused; see `_unclear`.

    :param schemas: the schemas of records that will be added to these.
    :raise CannotCompare: there are such records.
    """
    if len({record.schema for record in records} | set(schemas)) < 2:
        return
    if unclear := [record for record in records if _unclear(record)]:
        names = _listed({each.key.name for each in unclear})
        raise CannotCompare(
            f"The records of {names} have trials ({len(unclear)}) that an older kickbench recorded "
            "as lost or refused, and that might count as hangs or refusals today. Measure both "
            f"kernels again, into a separate record file (KICKBENCH_RECORDS). {WHATEVER}"
        )


def _notes(matches: Sequence[Match]) -> tuple[str, ...]:
    """Return the settings that differ between the kernels and may be their choice, in words."""
    notes = []
    for name in OTHER_FIELDS:
        ours = _settings(name, (record for match in matches for record in match.base))
        theirs = _settings(name, (record for match in matches for record in match.candidate))
        if ours and theirs and ours != theirs:
            what = name.replace("_", " ")
            notes.append(f"{what}: {' / '.join(ours)} -> {' / '.join(theirs)}")
    return tuple(notes)


def _settings(name: str, records: Iterable[Record]) -> list[str]:
    """Return the values of a setting in records that it affects, in words."""
    return sorted(
        {
            shown(getattr(each.setup, name))
            for each in records
            if each.setup is not None and name in setup_fields(each.scenario)
        }
    )


def _of_setup(which: str, name: str) -> Callable[[Record], object]:
    def read(record: Record) -> object:
        value = getattr(getattr(record, which), name, None)
        return None if value is None else str(value)

    return read


def _listed(values: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, values)))
