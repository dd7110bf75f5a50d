# SPDX-License-Identifier: BSD-3-Clause
"""What this kernel does with a vCPU that is stuck, by KVM and userfaultfd alone.

A worker process runs the vCPU; from here it is seen stuck, signalled, and timed. The moment that
it is back in user mode the worker takes itself, on the clock that all processes share.
"""

from __future__ import annotations

import os
import select
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from bench_lib import architecture, process, threads
from bench_lib.deadline import Deadline
from bench_lib.errors import HugepagesMissing, ProbeFailed, UnknownCase, UserfaultfdForbidden
from bench_lib.host import device, setup, userfaultfd
from bench_lib.kvm import userfault
from bench_lib.kvm.worker import MOMENT, PRESENT
from bench_lib.ownership import Run
from bench_lib.ptrace import PTRACE_CONT, PTRACE_INTERRUPT, PTRACE_SEIZE, WALL, ptrace
from bench_lib.record import HUNG, Backing, Entry, Host, Kernel, Outcome, Setup
from bench_lib.settings import CHECKOUT
from bench_lib.threads import ThreadState

START_S = 20.0
"""Seconds for a worker to be up; a tenth of one, and under emulation ten times as long."""

STUCK_S = 5.0
"""Seconds until a vCPU has to be stuck; less than a thousandth of one."""

SETTLE_S = 0.001
"""How long a vCPU is left alone before it is kicked. One that sleeps since a moment is back the
sooner, for its processor has not yet gone to sleep as well."""

JUDGE_S = 0.1
"""How long a vCPU that did not come back is watched, to tell sleep from spinning."""

ZOMBIE = "Z"
"""The state of a thread that has ended, in /proc."""

KILLS = 8
"""How often SIGKILL is tried at the most, each time on a worker of its own. asv tells no difference
between fewer."""


class Wake(StrEnum):
    """What calls the vCPU back."""

    SIGUSR1 = "sigusr1"
    SIGINT = "sigint"
    PTRACE = "ptrace"
    """PTRACE_INTERRUPT, until the thread has stopped."""
    SIGKILL = "sigkill"
    """Until the process is reaped."""


@dataclass(frozen=True)
class ProbeCase:
    """:ivar program: of the worker. :ivar mode: of userfaultfd, or `present` memory.

    :ivar path: the fault path that is meant; `none` for a vCPU that runs.
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
"""By the path, the memory and the signal that each is about, where those are not the usual ones."""


def named(names: Sequence[str]) -> list[ProbeCase]:
    """The cases of these names; all, if there is none.

    :raise UnknownCase: there is no such case; the sentence says which there are.
    """
    known = {case.name: case for case in CASES}
    for name in names:
        if name not in known:
            raise UnknownCase(f"There is no case {name!r}; there is {', '.join(known)}.")
    return [known[name] for name in names] or list(CASES)


@dataclass(frozen=True)
class Hung:
    """A thread that was not called back, at the end of the case.

    :ivar cpu_share: what it burnt of a CPU then.
    """

    state: str
    wchan: str
    stack: tuple[str, ...]
    cpu_share: float


@dataclass(frozen=True)
class Result:
    """What became of one case.

    :ivar outcome: None where the case cannot be tried here; `lost` where its path was not taken.
    :ivar reason: why, for both.
    :ivar state: of the thread when it was stuck, as wchan, stack and fault_path.
    :ivar wakes_ns: a time for each wake.
    :ivar after: the thread where it hung.
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
    """What a run of the probe found.

    :ivar interruptible: what the kernel's types say, to be seen beside what it does.
    :ivar verdict: a sentence, see `verdict`.
    """

    kernel: Kernel
    boot_id: str
    host: Host
    setup: Setup
    interruptible: str
    verdict: str
    cases: tuple[Result, ...]


def to_json(report: Report) -> bytes:
    """An object; each case also with the sums of its wakes, for whoever reads no Python."""
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
    """What `to_json` gave.

    :raise ProbeFailed: it is no report.
    """
    try:
        return msgspec.json.decode(text, type=Report)
    except msgspec.MsgspecError as error:
        raise ProbeFailed(f"The probe gave no report ({error}).") from None


class _Worker:
    """A process with a vCPU in it."""

    def __init__(self, run: Run, case: ProbeCase, cpus: Sequence[int], stack: ExitStack) -> None:
        """:param cpus: it has the last of them.

        :raise ProbeFailed: it did not get so far as to run the vCPU.
        """
        self._output, theirs = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, self._output)
        argv = [sys.executable, "-m", "bench_lib.kvm.worker", case.program, case.backing, case.mode]
        if case.wake is Wake.PTRACE:
            argv.append("traced")
        try:
            self.child = stack.enter_context(
                process.started(argv, env={**run.mark, "PYTHONPATH": str(CHECKOUT)}, output=theirs)
            )
        finally:
            os.close(theirs)
        os.sched_setaffinity(self.pid, {cpus[-1]})
        if self.back(START_S) != 0:
            raise ProbeFailed(f"The worker of {case.name} is not up.")

    @property
    def pid(self) -> int:
        return self.child.pid

    def back(self, limit_s: float) -> int | None:
        """When the vCPU came back; None if it did not in time.

        :raise ProbeFailed: the worker ended; its last words are the message.
        """
        if not select.select([self._output], [], [], limit_s)[0]:
            return None
        data = os.read(self._output, MOMENT.size)
        if data[:1] == b"\0":
            return int(MOMENT.unpack(data)[1])
        while more := os.read(self._output, 65536):
            data += more
        said = data.decode(errors="replace").strip() or "The worker ended."
        raise ProbeFailed(said.splitlines()[-1])

    def must_be_inside(self) -> None:
        """Refuse a vCPU that is back before it is called.

        :raise ProbeFailed: it is.
        """
        if self.back(0) is not None:
            raise ProbeFailed("Something else has called the vCPU back.")

    def look(self) -> ThreadState:
        """Look once at its only thread.

        :raise ProbeFailed: it ended; its last words are the message.
        """
        try:
            seen = threads.observe(self.pid, self.pid)
        except ProcessLookupError:
            raise ProbeFailed("The worker ended.") from None
        if seen.state == ZOMBIE:
            self.back(0)
            raise ProbeFailed("The worker ended.")
        return seen


def run(
    owner: Run,
    cases: Sequence[ProbeCase],
    count: int,
    deadline_s: float,
    on_result: Callable[[Result], None],
) -> list[Result]:
    """Probe each of `cases`.

    :param count: wakes a case, as long as none hangs.
    :param deadline_s: seconds until a wake has hung.
    :raise HostError: nothing can be probed here.
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
    """Keep to the first of our CPUs, so that workers can have the last.

    Left to the scheduler they are on one or on two, which makes the same wake several times as
    long or as short.

    :return: all of them.
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
    try:
        if case.wake is Wake.SIGKILL:
            for _ in range(min(count, KILLS)):
                with ExitStack() as stack:
                    worker = _Worker(owner, case, cpus, stack)
                    seen = _stuck(worker, case)
                    took_ns = _kill(worker, deadline_s)
                    if took_ns is None:
                        outcome, after = _how_it_hung(worker, case, seen)
                        break
                    wakes.append(took_ns)
        else:
            with ExitStack() as stack:
                worker = _Worker(owner, case, cpus, stack)
                if case.wake is Wake.PTRACE:
                    ptrace(PTRACE_SEIZE, worker.pid)
                for _ in range(count):
                    seen = _stuck(worker, case)
                    worker.must_be_inside()
                    took_ns = _WAKES[case.wake](worker, deadline_s)
                    if took_ns is None:
                        outcome, after = _how_it_hung(worker, case, seen)
                        break
                    wakes.append(took_ns)
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
    """Why not, where this host or its kernel has not what a case takes."""
    try:
        if case.backing is Backing.HUGETLB:
            setup.check_huge_pages(1)
        if case.mode != PRESENT:
            userfaultfd.check(userfault.FEATURES[case.mode, case.backing])
    except (HugepagesMissing, UserfaultfdForbidden) as error:
        return str(error)
    return None


def _stuck(worker: _Worker, case: ProbeCase) -> ThreadState:
    """Wait until the vCPU was seen stuck twice in the same place, on the path that is meant.

    One that is to be healthy is seen to run.

    :raise ProbeFailed: it was not; the sentence says what was seen.
    """
    deadline = Deadline.after(STUCK_S)
    if case.path is Entry.NONE:
        return _running(worker, deadline)
    earlier = worker.look()
    while not deadline.passed:
        now = worker.look()
        if now.fault_path is case.path and now.state in threads.ASLEEP and now.same_sleep(earlier):
            time.sleep(SETTLE_S)
            return now
        earlier = now
    raise ProbeFailed(
        f"The vCPU took path {earlier.fault_path} instead of {case.path} "
        f"({earlier.state} {earlier.wchan})."
    )


def _running(worker: _Worker, deadline: Deadline) -> ThreadState:
    """Wait until the thread has burnt CPU time, which the kernel adds up at each of its ticks.

    :raise ProbeFailed: it has not; the sentence says what was seen.
    """
    begin = worker.look()
    while not deadline.passed:
        time.sleep(SETTLE_S)
        now = worker.look()
        runs = now.state == threads.RUNNING and now.fault_path is Entry.NONE
        if runs and now.cpu_ns > begin.cpu_ns:
            return now
    raise ProbeFailed(f"The vCPU does not run ({now.state} {now.wchan}, path {now.fault_path}).")


def _signal(number: signal.Signals) -> Callable[[_Worker, float], int | None]:
    def wake(worker: _Worker, deadline_s: float) -> int | None:
        sent_ns = threads.kick(worker.pid, worker.pid, number)
        back_ns = worker.back(deadline_s)
        if back_ns is not None and back_ns < sent_ns:
            raise ProbeFailed("The vCPU was back before it was called.")
        return None if back_ns is None else back_ns - sent_ns

    return wake


def _trace(worker: _Worker, deadline_s: float) -> int | None:
    sent_ns = time.monotonic_ns()
    ptrace(PTRACE_INTERRUPT, worker.pid)
    deadline = Deadline.after(deadline_s)
    # Only the tracer may wait, and it may not wait for longer than the deadline: so it looks.
    while os.waitpid(worker.pid, WALL | os.WNOHANG)[0] == 0:
        if deadline.passed:
            return None
    stopped_ns = time.monotonic_ns()
    ptrace(PTRACE_CONT, worker.pid)
    if worker.back(deadline_s) is None:
        raise ProbeFailed("The thread stopped for its tracer, but KVM_RUN did not come back.")
    return stopped_ns - sent_ns


def _kill(worker: _Worker, deadline_s: float) -> int | None:
    sent_ns = time.monotonic_ns()
    worker.child.signal(signal.SIGKILL)
    reaped_ns = worker.child.reaped_within(deadline_s)
    return None if reaped_ns is None else reaped_ns - sent_ns


_WAKES: dict[Wake, Callable[[_Worker, float], int | None]] = {
    Wake.SIGUSR1: _signal(signal.SIGUSR1),
    Wake.SIGINT: _signal(signal.SIGINT),
    Wake.PTRACE: _trace,
}


def _how_it_hung(worker: _Worker, case: ProbeCase, before: ThreadState) -> tuple[Outcome, Hung]:
    """Whether a vCPU that did not come back sleeps or spins, by what it burns from now on.

    :raise ProbeFailed: it does neither, or was late.
    """
    begin_ns, then = time.monotonic_ns(), worker.look()
    time.sleep(JUDGE_S)
    now = worker.look()
    elapsed_ns = time.monotonic_ns() - begin_ns
    # Late is another thing than never, and the vCPU is stuck again by now.
    if case.wake is not Wake.SIGKILL and worker.back(0) is not None:
        raise ProbeFailed("The vCPU came back, but only after the deadline; see --deadline.")
    after = Hung(now.state, now.wchan, now.stack, (now.cpu_ns - then.cpu_ns) / elapsed_ns)
    if threads.spin([then], [now], elapsed_ns):
        return Outcome.SPINNING, after
    asleep = now.called and now.state in threads.ASLEEP and now.same_sleep(then)
    if asleep and now.fault_path is before.fault_path:
        return Outcome.ASLEEP, after
    raise ProbeFailed(f"No wake was seen, but the vCPU is in state {now.state}, {now.wchan}.")


def verdict(results: Sequence[Result]) -> str:
    """One sentence: does this kernel let go of a stuck vCPU, by path."""
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
        return "nothing is known of what this kernel does with a vCPU stuck in guest memory"
    return f"this kernel lets go of a vCPU stuck in guest memory: {', '.join(answers)}"
