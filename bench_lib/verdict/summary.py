# SPDX-License-Identifier: BSD-3-Clause
"""Sum up records: a row per kernel, host, request, scenario, manager and shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from statistics import median

import msgspec

from bench_lib.record import (
    FAILED,
    SCORED,
    Entry,
    Family,
    Host,
    Kernel,
    Key,
    Outcome,
    Record,
    Recovery,
    ScenarioName,
    Setup,
    WaitsFor,
)

STORAGE_FIELDS = (
    "fuse_request_timeout",
    "fuse_max_request_timeout",
    "shmem_thp",
    "swap",
    "swappiness",
    "dirty_limit",
)
"""The fields of a set-up that affect only trials of the family storage."""

SETUP_FIELDS = tuple(
    each.name for each in fields(Setup) if each.name not in {"load", *STORAGE_FIELDS}
)
"""The fields by which two set-ups differ for every trial. The load is not among them, because it
always differs."""


def setup_fields(scenario: ScenarioName) -> tuple[str, ...]:
    """Return the fields by which two set-ups differ for trials of a scenario."""
    return SETUP_FIELDS + (STORAGE_FIELDS if scenario.family is Family.STORAGE else ())


@dataclass(frozen=True)
class Wait:
    """How long an operator waited.

    :ivar censored: whether there was no answer, so that the wait is only a lower bound.
    """

    ns: int
    censored: bool


@dataclass(frozen=True)
class KeySummary:
    """The trials of one key under one kernel.

    The threads are those of vCPUs, just before the request.

    :ivar outcomes: how many trials ended with each outcome.
    :ivar median: median wait of the trials that returned, hung or died, in which a trial without an
        answer counts with its deadline; None if there are none.
    :ivar worst: longest wait of the same trials; None if there are none.
    :ivar refused_median: median wait of the trials that were refused; None if there are none.
    :ivar refused_worst: longest wait of the trials that were refused; None if there are none.
    :ivar states: states of the threads.
    :ivar wchans: functions in which the threads slept.
    :ivar entries: how the threads got into the kernel's wait.
    :ivar mixes: how many trials had each mix of entries, the most frequent first; see
        `Evidence.mix`.
    :ivar waits_for: what the threads waited for.
    :ivar mechanisms: the mechanisms of the outage.
    """

    kernel: Kernel
    key: Key
    trials: int
    outcomes: dict[Outcome, int]
    median: Wait | None
    worst: Wait | None
    refused_median: Wait | None
    refused_worst: Wait | None
    states: tuple[str, ...]
    wchans: tuple[str, ...]
    entries: tuple[Entry, ...]
    mixes: dict[str, int]
    waits_for: tuple[WaitsFor, ...]
    mechanisms: tuple[str, ...]

    @property
    def failed(self) -> int:
        """Trials that hung or died."""
        return sum(self.outcomes[each] for each in FAILED)


def rows(records: Iterable[Record]) -> list[KeySummary]:
    """Return a row for each kernel and key, in the order of their first records."""
    groups: dict[tuple[Kernel, Key], list[Record]] = {}
    for record in records:
        groups.setdefault((record.kernel, record.key), []).append(record)
    return [_row(kernel, key, group) for (kernel, key), group in groups.items()]


def _row(kernel: Kernel, key: Key, group: Sequence[Record]) -> KeySummary:
    scored = [record for record in group if record.outcome in SCORED]
    refused = [record for record in scored if record.outcome is Outcome.REFUSED]
    others = [record for record in scored if record.outcome is not Outcome.REFUSED]
    seen = [thread for record in scored for thread in record.evidence.vcpus]
    counts = Counter(record.outcome for record in group)
    return KeySummary(
        kernel=kernel,
        key=key,
        trials=len(group),
        outcomes={outcome: counts[outcome] for outcome in Outcome},
        median=median_wait(others),
        worst=_worst(others),
        refused_median=median_wait(refused),
        refused_worst=_worst(refused),
        states=tuple(sorted({thread.state for thread in seen})),
        wchans=tuple(sorted({thread.wchan for thread in seen})),
        entries=tuple(sorted({thread.entry for thread in seen})),
        mixes=mixes(scored),
        waits_for=tuple(sorted({thread.waits_for for thread in seen})),
        mechanisms=tuple(sorted({record.outage for record in scored if record.outage})),
    )


def mixes(records: Iterable[Record]) -> dict[str, int]:
    """Return how many trials had each mix of entries, the most frequent first."""
    counts = Counter(record.evidence.mix for record in records if record.evidence.vcpus)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def flat(summed: object) -> dict[str, object]:
    """Return a row for JSON, with the parts of its key beside its other fields."""
    fields: dict[str, object] = msgspec.to_builtins(summed)
    key = fields.pop("key")
    assert isinstance(key, dict)
    return {**key, **fields}


def _wait(record: Record) -> Wait:
    return Wait(record.waited_ns, censored=record.outcome in FAILED)


def _order(wait: Wait) -> tuple[bool, int]:
    """Sort a trial without an answer after all others, even if its deadline was earlier."""
    return wait.censored, wait.ns


def _worst(records: Sequence[Record]) -> Wait | None:
    """Return the longest wait. It is a lower bound as soon as one trial had no answer."""
    waits = [_wait(record) for record in records]
    if not waits:
        return None
    return Wait(max(wait.ns for wait in waits), any(wait.censored for wait in waits))


def median_wait(records: Sequence[Record]) -> Wait | None:
    """Return the median wait: the middle one, or the mean of the two middle ones.

    If a trial in the middle had no answer, the median is only a lower bound: at most the earliest
    deadline at which a trial was given up.
    """
    if not records:
        return None
    waits = sorted(map(_wait, records), key=_order)
    low, high = waits[(len(waits) - 1) // 2], waits[len(waits) // 2]
    if not high.censored:
        return Wait((low.ns + high.ns) // 2, censored=False)
    given_up = min(wait.ns for wait in waits if wait.censored)
    return Wait(given_up if low.censored else min(low.ns, given_up), censored=True)


@dataclass(frozen=True)
class Difference:
    """A difference between records of one kernel on one host that bears on results.

    :ivar name: what differs, such as a field of `record.Setup`; after `lab host: ` it is a field of
        the set-up of the host that ran the lab.
    :ivar values: its values, in the order of their first records.
    """

    kernel: Kernel
    host: Host
    name: str
    values: tuple[str, ...]


def differences(records: Iterable[Record]) -> list[Difference]:
    """Return what differed between records that `rows` puts together.

    A value that a record lacks, as older ones do, differs from no other value.
    """
    groups: dict[tuple[Kernel, Host], dict[str, dict[str, None]]] = {}
    for record in records:
        group = groups.setdefault((record.kernel, record.host), {})
        for name, value in _made_with(record):
            group.setdefault(name, {})[value] = None
    return [
        Difference(*key, name, tuple(values))
        for key, group in groups.items()
        for name, values in group.items()
        if len(values) > 1
    ]


def _made_with(record: Record) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of everything that a trial was made with, in words."""
    for prefix, setup in (("", record.setup), ("lab host: ", record.lab_setup)):
        if setup is not None:
            for name in setup_fields(record.scenario):
                yield prefix + name.replace("_", " "), shown(getattr(setup, name))
    if record.machine_id is not None:
        yield "machine id", record.machine_id
    if record.qemu is not None:
        yield "QEMU", record.qemu
    if record.manager_version is not None:
        yield "manager", record.manager_version
    if record.lab_qemu is not None:
        yield "QEMU of the lab", record.lab_qemu
    if record.tool is not None:
        yield f"program of {record.request}", record.tool
    if record.outage is not None:
        yield f"outage of {record.scenario}", record.outage
    if record.store is not None:
        yield f"store of {record.scenario}", record.store
    if record.image_sha256 is not None:
        yield f"sha256 of the image {record.shape.image}", record.image_sha256
    if record.guest_kernel is not None:
        yield "kernel of the guest", shown(record.guest_kernel)


def shown(value: object) -> str:
    """Return a value of a set-up, or a kernel, as tables and sentences have it."""
    if value is None:
        return "unknown"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {text}" for key, text in sorted(value.items())) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(map(shown, value)) or "none"
    if isinstance(value, Kernel):
        return f"{value.release} {value.version}"
    return str(value)


@dataclass(frozen=True)
class Recoveries:
    """The recoveries of the guests of one key, under one kernel.

    The times are medians, counted from the link's return, and None if no trial has such a time.

    :ivar asked: trials with a recovery in their record.
    :ivar whole: trials whose guest found its memory undamaged.
    :ivar damaged: trials whose guest found its memory damaged.
    :ivar failed: trials whose guest could not be recovered.
    :ivar completed_ns: time until the migration had completed.
    :ivar next_pass_ns: time until every vCPU had finished a pass.
    :ivar answered_ns: time until a request that had hung was answered.
    """

    kernel: Kernel
    key: Key
    asked: int
    whole: int
    damaged: int
    failed: int
    completed_ns: int | None
    next_pass_ns: int | None
    answered_ns: int | None


def recoveries(records: Iterable[Record]) -> list[Recoveries]:
    """Return the recoveries of each kernel and key, those with damage first."""
    groups: dict[tuple[Kernel, Key], list[Recovery]] = {}
    for record in records:
        if record.recovery is not None:
            groups.setdefault((record.kernel, record.key), []).append(record.recovery)
    found = [
        Recoveries(
            kernel,
            key,
            asked=len(group),
            whole=sum(each.memory == "whole" for each in group),
            damaged=sum(each.memory == "damaged" for each in group),
            failed=sum(each.failure is not None for each in group),
            completed_ns=_median(each.completed_ns for each in group),
            next_pass_ns=_median(each.next_pass_ns for each in group),
            answered_ns=_median(each.answered_ns for each in group),
        )
        for (kernel, key), group in groups.items()
    ]
    return sorted(found, key=lambda each: (-each.damaged, -each.failed))


def _median(times: Iterable[int | None]) -> int | None:
    known = [each for each in times if each is not None]
    return round(median(known)) if known else None
