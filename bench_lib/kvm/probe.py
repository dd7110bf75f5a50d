# SPDX-License-Identifier: BSD-3-Clause
"""The probe: what this kernel does with a stuck vCPU, found with KVM and userfaultfd alone.

A worker process runs the vCPU (see `worker_process`). The probe sees the vCPU stuck, sends it a
signal, and calculates how long the wake took. The worker reads the time at which the vCPU is back
in user mode; both read the monotonic clock, which all processes share.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from bench_lib import architecture, threads
from bench_lib.errors import HugepagesMissing, ProbeFailed, UnknownCase, UserfaultfdForbidden
from bench_lib.host import device, setup, userfaultfd
from bench_lib.kvm import userfault
from bench_lib.kvm.worker import PRESENT
from bench_lib.kvm.worker_process import WorkerProcess
from bench_lib.ownership import Run
from bench_lib.record import HUNG, Backing, Entry, Host, Kernel, Outcome, Setup
from bench_lib.threads import ThreadState

JUDGE_S = 0.1
"""Seconds between the two looks that show whether a vCPU that did not come back sleeps or spins."""

KILLS = 8
"""The most kills per case; each needs a new worker. asv sees no difference with fewer samples."""


class Wake(StrEnum):
    """How the probe calls the vCPU back."""

    SIGUSR1 = "sigusr1"
    SIGINT = "sigint"
    PTRACE = "ptrace"
    """PTRACE_INTERRUPT; the wake ends when the thread has stopped."""
    SIGKILL = "sigkill"
    """The wake ends when the process is reaped."""


@dataclass(frozen=True)
class ProbeCase:
    """One experiment.

    :ivar program: the guest program that the worker runs, a key of `worker.PROGRAMS`.
    :ivar path: the fault path that the vCPU must be stuck on; `none` for a vCPU that runs.
    :ivar mode: the userfaultfd mode of the memory, or `present` for memory without userfaultfd.
    """

    name: str
    program: str
    path: Entry
    wake: Wake = Wake.SIGUSR1
    backing: Backing = Backing.ANONYMOUS
    mode: str = "missing"


CASES = (
    ProbeCase("healthy", "spin", Entry.NONE, mode=PRESENT),
    ProbeCase("gup-read", "read", Entry.GUP),
    ProbeCase("gup-write", "write", Entry.GUP),
    *(
        ProbeCase(f"gup-{access}-{backing}{suffix}", access, Entry.GUP, backing=backing, mode=mode)
        for backing in (Backing.MEMFD, Backing.HUGETLB)
        for mode, suffix in (("missing", ""), ("minor", "-minor"))
        for access in ("read", "write")
    ),
    ProbeCase("gup-write-sigint", "write", Entry.GUP, Wake.SIGINT),
    ProbeCase("gup-write-ptrace", "write", Entry.GUP, Wake.PTRACE),
    ProbeCase("gup-write-sigkill", "write", Entry.GUP, Wake.SIGKILL),
    ProbeCase("async-pf", "interrupts", Entry.ASYNC_PF),
    ProbeCase("uaccess", "string", Entry.UACCESS),
    ProbeCase("uaccess-sigkill", "string", Entry.UACCESS, Wake.SIGKILL),
)
"""Every case, by a name that has the fault path, and the memory and the wake unless they are the
defaults."""


def named(names: Sequence[str]) -> list[ProbeCase]:
    """Return the cases with these names, or all cases if `names` is empty.

    :raise UnknownCase: there is no case of such a name; the message lists all names.
    """
    known = {case.name: case for case in CASES}
    for name in names:
        if name not in known:
            raise UnknownCase(f"There is no case {name!r}; the cases are {', '.join(known)}.")
    return [known[name] for name in names] or list(CASES)


@dataclass(frozen=True)
class Hung:
    """The vCPU thread after a wake that hung.

    :ivar cpu_share: the share of one CPU that the thread used while it was watched.
    """

    state: str
    wchan: str
    stack: tuple[str, ...]
    cpu_share: float


@dataclass(frozen=True)
class Result:
    """The result of one case.

    :ivar outcome: None if the case cannot be tried here; `lost` if the vCPU did not get stuck as
        the case requires.
    :ivar reason: why `outcome` is None or `lost`.
    :ivar state: the state of the thread when it was stuck; `wchan`, `fault_path` and `stack` were
        read in the same look.
    :ivar wakes_ns: the duration of each wake, in nanoseconds.
    :ivar after: the thread after the wake that hung; None if none hung.
    """

    case: str
    outcome: Outcome | None
    reason: str | None = None
    state: str | None = None
    wchan: str | None = None
    fault_path: Entry | None = None
    wakes_ns: tuple[int, ...] = ()
    stack: tuple[str, ...] = ()
    after: Hung | None = None

    @property
    def median_us(self) -> float | None:
        return statistics.median(self.wakes_ns) / 1000 if self.wakes_ns else None

    @property
    def worst_us(self) -> float | None:
        return max(self.wakes_ns) / 1000 if self.wakes_ns else None


@dataclass(frozen=True)
class Report:
    """The results of one run of the probe.

    :ivar interruptible: whether KVM's page fault is interruptible by the kernel's type information.
    :ivar verdict: the sentence that `verdict` returns.
    """

    kernel: Kernel
    boot_id: str
    host: Host
    setup: Setup
    interruptible: str
    verdict: str
    cases: tuple[Result, ...]


def to_json(report: Report) -> bytes:
    """Encode a report as a JSON object, and add the statistics of its wakes to each case."""
    cases = [
        {
            **msgspec.to_builtins(each),
            "median_us": each.median_us,
            "worst_us": each.worst_us,
            "n": len(each.wakes_ns),
        }
        for each in report.cases
    ]
    return msgspec.json.encode({**msgspec.to_builtins(report), "cases": cases})


def from_json(text: bytes) -> Report:
    """Decode what `to_json` returned.

    :raise ProbeFailed: `text` is not a report.
    """
    try:
        return msgspec.json.decode(text, type=Report)
    except msgspec.MsgspecError as error:
        raise ProbeFailed(f"The probe printed something that is not a report ({error}).") from None


def run(
    owner: Run,
    cases: Sequence[ProbeCase],
    count: int,
    deadline_s: float,
    on_result: Callable[[Result], None],
) -> list[Result]:
    """Probe each of `cases`.

    :param count: how many wakes to time per case; a case ends at the first wake that hangs.
    :param deadline_s: how many seconds a wake may take before it counts as hung.
    :param on_result: called with the result of each case.
    :raise HostError: this host lacks what every case needs.
    """
    architecture.for_trials()
    device.check()
    userfaultfd.check()
    results = []
    with _apart() as cpus:
        for case in cases:
            result = _probe(owner, case, cpus, count, deadline_s)
            results.append(result)
            on_result(result)
    return results


@contextmanager
def _apart() -> Iterator[Sequence[int]]:
    """Bind the calling thread to the first of its CPUs, so that workers can have the last one.

    If the scheduler chose, probe and worker would share a CPU in some runs and not in others, and
    the same wake takes several times as long in one case as in the other.

    :return: all CPUs that the thread was allowed to use.
    """
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(ours)})
    try:
        yield sorted(ours)
    finally:
        os.sched_setaffinity(0, ours)


def _probe(
    owner: Run, case: ProbeCase, cpus: Sequence[int], count: int, deadline_s: float
) -> Result:
    if (why := _cannot_be_tried(case)) is not None:
        return Result(case.name, None, why)
    seen: ThreadState | None = None
    wakes: list[int] = []
    outcome = Outcome.RETURNED
    reason = None
    after = None
    ends_worker = case.wake is Wake.SIGKILL
    wakes_per_worker = 1 if ends_worker else count
    workers = min(count, KILLS) if ends_worker else 1
    try:
        for _ in range(workers):
            with ExitStack() as stack:
                worker = WorkerProcess(
                    owner,
                    case.name,
                    [case.program, case.backing, case.mode],
                    traced=case.wake is Wake.PTRACE,
                    cpu=cpus[-1],
                    stack=stack,
                )
                for _ in range(wakes_per_worker):
                    seen = worker.stuck(case.path)
                    if not ends_worker:
                        worker.must_be_inside()
                    took_ns = _wake(worker, case.wake, deadline_s)
                    if took_ns is None:
                        outcome, after = _how_it_hung(worker, case, seen)
                        break
                    wakes.append(took_ns)
            if after is not None:
                break
    except (ProbeFailed, OSError) as error:
        outcome, reason = Outcome.LOST, str(error)
    return Result(
        case.name,
        outcome,
        reason,
        seen.state if seen else None,
        seen.wchan if seen else None,
        seen.fault_path if seen else None,
        tuple(wakes),
        seen.stack if seen else (),
        after,
    )


def _cannot_be_tried(case: ProbeCase) -> str | None:
    """Return what this host or its kernel lacks for a case, or None if it lacks nothing."""
    try:
        if case.backing is Backing.HUGETLB:
            setup.check_huge_pages(1)
        if case.mode != PRESENT:
            userfaultfd.check(userfault.FEATURES[case.mode, case.backing])
    except (HugepagesMissing, UserfaultfdForbidden) as error:
        return str(error)
    return None


def _wake(worker: WorkerProcess, wake: Wake, deadline_s: float) -> int | None:
    """Call the vCPU back in the way of the case.

    :return: how long the wake took, in nanoseconds; None if it took longer than `deadline_s`.
    """
    match wake:
        case Wake.SIGUSR1:
            return worker.signal(signal.SIGUSR1, deadline_s)
        case Wake.SIGINT:
            return worker.signal(signal.SIGINT, deadline_s)
        case Wake.PTRACE:
            return worker.interrupt(deadline_s)
        case Wake.SIGKILL:
            return worker.kill(deadline_s)


def _how_it_hung(
    worker: WorkerProcess, case: ProbeCase, before: ThreadState
) -> tuple[Outcome, Hung]:
    """Decide whether a vCPU that did not come back sleeps or spins, by the CPU time it uses now.

    :param before: the vCPU when it was stuck, before the wake.
    :raise ProbeFailed: it does neither, or it came back after the deadline.
    """
    start_ns, then = time.monotonic_ns(), worker.look()
    time.sleep(JUDGE_S)
    now = worker.look()
    elapsed_ns = time.monotonic_ns() - start_ns
    # A late return is not a hang. The vCPU is stuck again by now, so its thread does not show it.
    if case.wake is not Wake.SIGKILL and worker.back(0) is not None:
        raise ProbeFailed("The vCPU came back, but only after the deadline; see --deadline.")
    after = Hung(now.state, now.wchan, now.stack, (now.cpu_ns - then.cpu_ns) / elapsed_ns)
    if threads.spin([then], [now], elapsed_ns):
        return Outcome.SPINNING, after
    asleep = now.called and now.state in threads.ASLEEP and now.same_sleep(then)
    if asleep and now.fault_path is before.fault_path:
        return Outcome.ASLEEP, after
    raise ProbeFailed(f"The vCPU did not come back, but does not hang: {now.state} {now.wchan}.")


def verdict(results: Sequence[Result]) -> str:
    """Answer in one sentence, per fault path, whether this kernel lets go of a stuck vCPU."""
    answers = []
    for path in (Entry.GUP, Entry.UACCESS, Entry.ASYNC_PF):
        scored = [
            each
            for each in results
            if each.fault_path is path and each.outcome not in {None, Outcome.LOST}
            if not each.case.endswith(Wake.SIGKILL)
        ]
        if scored:
            hung = any(each.outcome in HUNG for each in scored)
            answers.append(f"{'no' if hung else 'yes'} ({path})")
    if not answers:
        return "it is unknown whether this kernel lets go of a vCPU stuck in guest memory"
    return f"this kernel lets go of a vCPU stuck in guest memory: {', '.join(answers)}"
