# SPDX-License-Identifier: BSD-3-Clause
"""The probe: what this kernel does with a stuck vCPU, found with KVM and userfaultfd alone.

A worker process runs the vCPU (see `worker_process`). The probe sees the vCPU stuck, sends it a
signal, and calculates how long the wake took. The worker reads the time at which the vCPU is back
in user mode; both read the monotonic clock, which all processes share (see `timed`).
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import msgspec

from bench_lib import architecture, threads
from bench_lib.deadline import Deadline
from bench_lib.errors import (
    FuseUnavailable,
    HugepagesMissing,
    ProbeFailed,
    UserfaultfdForbidden,
)
from bench_lib.host import device, fuse, setup, userfaultfd
from bench_lib.kvm import offered, userfault
from bench_lib.kvm.cases import BY_NAME, ProbeCase, Wake
from bench_lib.kvm.fuse_memory import FuseMemory
from bench_lib.kvm.programs import PROGRAMS
from bench_lib.kvm.worker import PRESENT
from bench_lib.kvm.worker_process import WorkerProcess
from bench_lib.ownership import Run
from bench_lib.record import HUNG, Backing, Entry, Host, Kernel, Outcome, Setup, WaitsFor
from bench_lib.storage.fuse import Stall
from bench_lib.threads import ThreadState

JUDGE_S = 0.1
"""Seconds between the two looks that show whether a vCPU that did not come back sleeps or spins."""

JUDGES = 10
"""How many times as long a thread is watched at most that is ready to run, but has not run."""

KILLS = 8
"""The most kills per case; each needs a new worker. asv sees no difference with fewer samples."""


ZEROS = "The guest did not notice: it read zeros from a page that never arrived."
"""The note of a case whose guest went on with a page of zeros."""


@dataclass(frozen=True)
class Hung:
    """The thread that did not return: that of the vCPU, or the one that adds a memory slot.

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
    :ivar waits_for: what the thread waited for when it was stuck.
    :ivar note: what else the case has shown, as a sentence.
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
    waits_for: WaitsFor | None = None
    note: str | None = None

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
    wakes_per_worker = 1 if case.wake.once else count
    workers = min(count, KILLS) if case.wake.once else 1
    try:
        for _ in range(workers):
            with ExitStack() as stack:
                worker = _start(owner, case, cpus[-1], stack)
                for _ in range(wakes_per_worker):
                    seen = worker.stuck(case.path, case.waits_for)
                    if case.wake is not Wake.SIGKILL:
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
        seen.waits_for if seen else None,
        _note(case.wake, bool(wakes), after),
    )


def _note(wake: Wake, returned: bool, after: Hung | None) -> str | None:
    if wake is Wake.DEAD_SERVER and returned:
        return ZEROS
    if wake is Wake.MEMSLOT and after is not None:
        return f"The thread that adds the memory slot: {after.state} {after.wchan}."
    return None


def _start(owner: Run, case: ProbeCase, cpu: int, stack: ExitStack) -> WorkerProcess:
    """Start the worker of a case, and the server of its memory.

    :param cpu: the CPU that the worker is bound to.
    :param stack: ends both.
    :raise ProbeFailed: one of them did not start.
    """
    mode = str(case.mode)
    workers = ExitStack()
    if isinstance(case.mode, Stall):
        memory = FuseMemory(owner, case.mode, stack)
        mode = memory.path
        stack.enter_context(workers)
        # This comes before the end of the worker, which may be unable to die until then.
        stack.callback(memory.release)
    else:
        stack.enter_context(workers)
    return WorkerProcess(
        owner,
        case.name,
        [case.program, case.backing, mode],
        traced=case.wake is Wake.PTRACE,
        helped=not case.wake.calls,
        cpu=cpu,
        stack=workers,
    )


def _cannot_be_tried(case: ProbeCase) -> str | None:
    """Return what this host or its kernel lacks for a case, or None if it lacks nothing."""
    try:
        if case.backing is Backing.HUGETLB:
            setup.check_huge_pages(1)
        if isinstance(case.mode, Stall):
            fuse.check()
        elif case.mode != PRESENT:
            userfaultfd.check(userfault.FEATURES[case.mode, case.backing])
    except (FuseUnavailable, HugepagesMissing, UserfaultfdForbidden) as error:
        return str(error)
    return offered.here().lacks(PROGRAMS[case.program])


def _wake(worker: WorkerProcess, wake: Wake, deadline_s: float) -> int | None:
    """Do what the case times.

    :return: how long it took, in nanoseconds; None if it took longer than `deadline_s`.
    :raise ProbeFailed: the worker ended, or something else woke the vCPU.
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
        case Wake.MEMSLOT:
            return worker.add_memory(deadline_s)
        case Wake.DEAD_SERVER:
            read = worker.close_userfaultfd(deadline_s)
            if read is not None and read[1] != 0:
                raise ProbeFailed(f"The guest read {read[1]:#x} instead of zeros.")
            return None if read is None else read[0]


def _how_it_hung(
    worker: WorkerProcess, case: ProbeCase, before: ThreadState
) -> tuple[Outcome, Hung]:
    """Decide whether a thread that did not return sleeps or spins, by the CPU time it uses now.

    A thread that is ready to run on a busy CPU is looked at for longer.

    :param before: the vCPU when it was stuck, before the wake.
    :raise ProbeFailed: it does neither, or it returned after the deadline.
    """
    look = worker.look_at_helper if case.wake is Wake.MEMSLOT else worker.look
    start_ns, then = time.monotonic_ns(), look()
    patience = Deadline.after(JUDGES * JUDGE_S)
    while True:
        time.sleep(JUDGE_S)
        now = look()
        elapsed_ns = time.monotonic_ns() - start_ns
        spins = threads.spin([then], [now], elapsed_ns)
        if spins or now.state != threads.RUNNING or patience.passed:
            break
    # A late return is not a hang. The vCPU is stuck again by now, so its thread does not show it.
    if case.wake is not Wake.SIGKILL and worker.back(0) is not None:
        what = "vCPU came back" if case.wake.calls else "ioctl returned"
        raise ProbeFailed(f"The {what}, but only after the deadline; see --deadline.")
    after = Hung(now.state, now.wchan, now.stack, (now.cpu_ns - then.cpu_ns) / elapsed_ns)
    if spins:
        return Outcome.SPINNING, after
    asleep = now.state in threads.ASLEEP and now.same_sleep(then)
    if not case.wake.calls and asleep:
        return Outcome.ASLEEP, after
    if now.called and asleep and now.fault_path is before.fault_path:
        return Outcome.ASLEEP, after
    who = "second thread did not return" if case.wake is Wake.MEMSLOT else "vCPU did not come back"
    raise ProbeFailed(f"The {who}, but does not hang: {now.state} {now.wchan}.")


def _where(case: ProbeCase) -> str:
    """Return where the vCPU of a case is stuck, in the words of the verdict."""
    if PROGRAMS[case.program].pre_fault:
        return "pre-fault"
    return f"{case.path} from FUSE" if isinstance(case.mode, Stall) else str(case.path)


def verdict(results: Sequence[Result]) -> str:
    """Answer in one sentence whether this kernel lets go of a stuck vCPU.

    There is an answer per fault path, another one if the page comes from FUSE, and one for
    KVM_PRE_FAULT_MEMORY, which does not run the vCPU.
    """
    hung: dict[str, bool] = {}
    for path in (Entry.GUP, Entry.UACCESS, Entry.GPC, Entry.ASYNC_PF):
        for each in results:
            case = BY_NAME[each.case]
            scored = each.fault_path is path and each.outcome not in {None, Outcome.LOST}
            if scored and case.wake.calls and case.wake is not Wake.SIGKILL:
                where = _where(case)
                hung[where] = hung.get(where, False) or each.outcome in HUNG
    if not hung:
        return "it is unknown whether this kernel lets go of a vCPU stuck in guest memory"
    answers = ", ".join(f"{'no' if no else 'yes'} ({where})" for where, no in hung.items())
    return f"this kernel lets go of a vCPU stuck in guest memory: {answers}"
