# SPDX-License-Identifier: BSD-3-Clause
"""What was measured: read it, keep what the page uses, and group it into rows and cells."""

from __future__ import annotations

import lzma
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_lib import record
from bench_lib.guest.workloads.description import shape_of
from bench_lib.kvm import probe
from bench_lib.kvm.probe import Report, Result
from bench_lib.record import HUNG, Host, Kernel, ManagerName, Outcome, Record, Shape
from bench_lib.trial.requests.description import REQUESTS
from bench_lib.verdict import summary
from bench_lib.verdict.summary import Wait

from .predictions import OUTCOMES, SLOW_NS, Expected, Reason

WAKES = ("sigusr1", "sigint", "ptrace", "sigkill", "memslot", "dead-server")
"""What the probe does to a stuck vCPU, in the order of columns. The names of cases end with it,
except for the first one."""


@dataclass(frozen=True)
class Place:
    """A kernel on a host. It is the heading of a column."""

    kernel: Kernel
    host: Host

    @property
    def name(self) -> str:
        """The name of the place: 6.1.0-56-amd64, lab (tcg)."""
        kind = f"lab ({self.host.accelerator})" if self.host.kind == "lab" else "native"
        return f"{self.kernel.release}, {kind}"


@dataclass(frozen=True)
class Seen:
    """A thread that the page shows: where it was stuck.

    :ivar who: the thread and the moment: vCPU 0 before the request.
    """

    who: str
    state: str
    where: str
    stack: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """What was measured of one request, for one reason, at one place.

    :ivar outcomes: how many trials had each outcome. A case of the probe counts as one.
    :ivar threads: the stuck vCPU, and the thread that explains a hang, if that differs.
    :ivar deadlines_ns: the deadlines of trials that measured something, the earliest first. If
        there are several, a hang of one trial may be a late answer of another.
    """

    outcomes: Counter[Outcome]
    usual: Wait | None
    threads: tuple[Seen, ...]
    deadlines_ns: tuple[int, ...] = ()

    @property
    def scored(self) -> int:
        return self.outcomes.total() - self.outcomes[Outcome.LOST]

    def agrees(self, expected: Expected) -> bool:
        """Whether all trials that measured something did what was predicted."""
        if not set(self.outcomes) - {Outcome.LOST} <= OUTCOMES[expected]:
            return False
        return expected is not Expected.SLOW or (
            self.usual is not None and self.usual.ns >= SLOW_NS
        )


@dataclass(frozen=True)
class Row:
    """A row of a table: one way to stage a reason, and its cells by place and request."""

    reason: Reason
    staged: str
    cells: dict[tuple[Place, str], Cell]


@dataclass(frozen=True)
class Input:
    """What the page is made from.

    :ivar records: the records of trials, each once.
    :ivar reports: the last report of the probe at each place.
    """

    records: list[Record]
    reports: dict[Place, Report]


def read(paths: Iterable[Path]) -> Input:
    """Read record files and reports of the probe."""
    records: dict[tuple[str, int], Record] = {}
    reports: dict[Place, Report] = {}
    for path in paths:
        text = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        if path.name.removesuffix(".xz").endswith(".jsonl"):
            for line in text.decode().splitlines():
                made = record.from_line(line)
                records[made.run_id, made.seq] = made
        else:
            report = probe.from_json(text)
            reports[Place(report.kernel, report.host)] = report
    return Input(list(records.values()), reports)


def used(records: Iterable[Record], all_reasons: Iterable[Reason]) -> list[Record]:
    """Return the records that belong to a row: trials of usual guests, run by QEMU.

    Trials that were not tried do not belong to one, nor do trials with a second request. Deadlines
    may differ; see `Cell.deadlines`.
    """
    staged = {name for reason in all_reasons for name in reason.scenarios}
    return [
        each
        for each in records
        if each.tried
        and staged_by(each) in staged
        and each.manager is ManagerName.QEMU
        and each.then is None
        and _of_usual_guest(each)
    ]


def _of_usual_guest(made: Record) -> bool:
    """Whether the guest was like any other with its image, and came up like any other.

    A guest that boots in the trial has touched other pages than one that is restored.
    """
    booted = made.guest_start == "booted"
    usual = shape_of(made.shape.image)
    return made.shape == usual and (not booted or REQUESTS[made.request].memory_slot)


def staged_by(made: Record) -> str:
    """Return the scenario of a trial as docs/what-obeys.toml names it."""
    image = made.shape.image
    return made.scenario if image == Shape().image else f"{made.scenario}/{image}"


def store(found: Input, folder: Path) -> None:
    """Replace the input of the page. Equal inputs make equal files."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    lines = "".join(f"{record.to_line(each)}\n" for each in found.records)
    _write(folder / "records.jsonl.xz", lines.encode())
    for place, report in found.reports.items():
        name = re.sub(r"[^\w.+-]+", "-", place.name).strip("-")
        _write(folder / f"probe-{name}.json.xz", probe.to_json(report))


def _write(path: Path, text: bytes) -> None:
    path.write_bytes(lzma.compress(text))


def trial_rows(records: Sequence[Record], all_reasons: Sequence[Reason]) -> list[Row]:
    """Return a row for each scenario that stages a reason."""
    groups: dict[str, dict[tuple[Place, str], list[Record]]] = {}
    for each in records:
        cells = groups.setdefault(staged_by(each), {})
        cells.setdefault((Place(each.kernel, each.host), each.request), []).append(each)
    return [
        Row(reason, name, {at: _of_trials(of) for at, of in groups.get(name, {}).items()})
        for reason in all_reasons
        for name in reason.scenarios
    ]


def _of_trials(records: Sequence[Record]) -> Cell:
    """Return a cell of trials, with the threads of the first one that had the usual outcome."""
    outcomes = Counter(each.outcome for each in records)
    scored = [each for each in records if each.outcome is not Outcome.LOST]
    if not scored:
        return Cell(outcomes, None, ())
    usual, _ = Counter(each.outcome for each in scored).most_common(1)[0]
    evidence = next(each for each in scored if each.outcome is usual).evidence
    stuck = next((each for each in evidence.vcpus if each.stack), None)
    blocker = evidence.blocking if usual in HUNG else None
    threads = [(stuck, "before the request"), (blocker, "at the deadline")]
    return Cell(
        outcomes,
        summary.median_wait(scored),
        tuple(
            Seen(f"{each.label} {when}", each.state, f"{each.entry}, {each.waits_for}", each.stack)
            for each, when in threads
            if each is not None and each.stack
        ),
        tuple(sorted({each.deadline_ns for each in scored})),
    )


def probe_rows(reports: Mapping[Place, Report], all_reasons: Sequence[Reason]) -> list[Row]:
    """Return a row for each case of the probe that stages a reason, with a cell per wake."""
    cells: dict[str, dict[tuple[Place, str], Cell]] = {}
    for place, report in reports.items():
        for result in report.cases:
            name, wake = apart(result.case)
            if result.outcome is not None:
                cells.setdefault(name, {})[place, wake] = _of_case(result)
    return [
        Row(reason, name, cells.get(name, {})) for reason in all_reasons for name in reason.cases
    ]


def apart(case: str) -> tuple[str, str]:
    """Return the name of a case of the probe without its wake, and the wake.

    Cases are known by their names, so that reports of any version of the probe can be read.
    """
    if case in WAKES:
        return case, case
    wake = next((each for each in WAKES if case.endswith(f"-{each}")), WAKES[0])
    return case.removesuffix(f"-{wake}"), wake


def _of_case(result: Result) -> Cell:
    assert result.outcome is not None
    threads = []
    if result.stack:
        where = ", ".join(filter(None, (result.fault_path, result.waits_for)))
        threads.append(Seen("vCPU before the wake", str(result.state), where, result.stack))
    if result.after is not None and result.after.stack:
        threads.append(Seen("thread that hung", result.after.state, "-", result.after.stack))
    usual = None
    if result.median_us is not None and result.after is None:
        usual = Wait(round(result.median_us * 1000), censored=False)
    return Cell(Counter([result.outcome]), usual, tuple(threads))
