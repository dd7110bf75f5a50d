# SPDX-License-Identifier: BSD-3-Clause
"""The probe's side of a worker: start it, see its vCPU stuck, call the vCPU back, time that.

`worker` is the program that runs in the process.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from bench_lib import process, threads
from bench_lib.deadline import Deadline
from bench_lib.errors import ProbeFailed
from bench_lib.kvm import timed
from bench_lib.kvm.timed import Clock
from bench_lib.kvm.worker import HELPER, MESSAGE, Command, Kind
from bench_lib.ownership import Run
from bench_lib.ptrace import PTRACE_CONT, PTRACE_INTERRUPT, PTRACE_SEIZE, WALL, ptrace
from bench_lib.record import Entry, WaitsFor
from bench_lib.settings import CHECKOUT
from bench_lib.threads import ThreadState
from bench_lib.units import NS_PER_S

START_S = 20.0
"""Seconds that a worker may take to start: it takes a tenth of a second, or one second under
emulation."""

STUCK_S = 5.0
"""Seconds that a vCPU may take to get stuck: it takes less than a millisecond."""

SETTLE_NS = 1_000_000
"""Nanoseconds that the vCPU and the probe rest before the vCPU is called back. A vCPU that has only
just gone to sleep returns sooner, because its processor is not yet idle. A probe that has just read
files in /proc sends the signal later."""

ZOMBIE = "Z"
"""The state in /proc of a thread that has ended."""


class WorkerProcess:
    """A process whose main thread runs one vCPU."""

    def __init__(
        self,
        run: Run,
        name: str,
        arguments: Sequence[str],
        *,
        traced: bool,
        helped: bool,
        cpu: int,
        stack: ExitStack,
    ) -> None:
        """Start the worker and wait until it is about to run the vCPU.

        :param name: the name of the case, for the error.
        :param arguments: the worker's program, backing and mode.
        :param traced: whether we trace the worker, so that it reports returns without a signal too.
        :param helped: whether the worker has a second thread; see `call`.
        :param cpu: the CPU that the worker is bound to.
        :param stack: ends the worker.
        :raise ProbeFailed: the worker ended, or did not start in time.
        """
        self._output, theirs = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, self._output)
        argv = [sys.executable, "-m", "bench_lib.kvm.worker", *arguments]
        options = {"traced": traced, "helped": helped}
        argv += [option for option, wanted in options.items() if wanted]
        env = {**run.mark, "PYTHONPATH": str(CHECKOUT)}
        try:
            self._child = stack.enter_context(
                process.started(argv, env=env, output=theirs, stdin_pipe=helped)
            )
        finally:
            os.close(theirs)
        self._clock = Clock()
        os.sched_setaffinity(self.pid, {cpu})
        if self.back(START_S) != 0:
            raise ProbeFailed(f"The worker of {name} did not start within {START_S:.0f} s.")
        if traced:
            ptrace(PTRACE_SEIZE, self.pid)

    @property
    def pid(self) -> int:
        return self._child.pid

    def back(self, limit_s: float) -> int | None:
        """Wait for the time at which the vCPU came back, in nanoseconds of the monotonic clock.

        :return: None if the vCPU did not come back within `limit_s` seconds.
        :raise ProbeFailed: the worker ended; the message is its last line of output.
        """
        message = self._read(limit_s)
        return None if message is None else message[2]

    def _read(self, limit_s: float) -> tuple[Kind, int, int] | None:
        """Wait for the next message.

        :return: None if there was none within `limit_s` seconds.
        :raise ProbeFailed: the worker ended; the message is its last line of output.
        """
        if not select.select([self._output], [], [], limit_s)[0]:
            return None
        data = os.read(self._output, MESSAGE.size)
        if data and data[0] in list(Kind):
            kind, first, second = MESSAGE.unpack(data)
            return Kind(kind), first, second
        while more := os.read(self._output, 65536):
            data += more
        text = data.decode(errors="replace").strip() or "The worker ended."
        raise ProbeFailed(text.splitlines()[-1])

    def must_be_inside(self) -> None:
        """Check that the vCPU has not come back before it is called.

        :raise ProbeFailed: it has.
        """
        if self.back(0) is not None:
            raise ProbeFailed("Something other than the probe has called the vCPU back.")

    def look(self) -> ThreadState:
        """Look once at the vCPU's thread.

        :raise ProbeFailed: the worker ended; the message is its last line of output.
        """
        try:
            (seen,) = threads.told_apart([threads.observe(self.pid, self.pid)])
        except ProcessLookupError:
            raise ProbeFailed("The worker ended.") from None
        if seen.state == ZOMBIE:
            self.back(0)
            raise ProbeFailed("The worker ended.")
        return seen

    def look_at_helper(self) -> ThreadState:
        """Look once at the second thread.

        :raise ProbeFailed: the worker ended.
        """
        for each in threads.observe_all(self.pid):
            if each.name == HELPER:
                return each
        raise ProbeFailed("The worker ended.")

    def stuck(self, path: Entry, waits_for: WaitsFor) -> ThreadState:
        """Wait until two looks in a row show the vCPU stuck in the same place.

        :param path: the fault path that the vCPU has to be stuck on; `none` for a vCPU that has to
            be seen running.
        :param waits_for: what it has to wait for there.
        :return: the second look.
        :raise ProbeFailed: this was not seen in time; the message has what was seen.
        """
        deadline = Deadline.after(STUCK_S)
        if path is Entry.NONE:
            return self._running(deadline)
        earlier = self.look()
        while not deadline.passed:
            now = self.look()
            there = now.fault_path is path and now.waits_for is waits_for
            if there and now.state in threads.ASLEEP and now.same_sleep(earlier):
                return now
            earlier = now
        raise ProbeFailed(
            f"The vCPU waits for {earlier.waits_for} on path {earlier.fault_path} instead of for "
            f"{waits_for} on path {path} ({earlier.state} {earlier.wchan})."
        )

    def _running(self, deadline: Deadline) -> ThreadState:
        """Wait until the thread has used CPU time, which the kernel accounts at each tick.

        :raise ProbeFailed: it has not; the message has what was seen.
        """
        first = self.look()
        while not deadline.passed:
            time.sleep(SETTLE_NS / NS_PER_S)
            now = self.look()
            runs = now.state == threads.RUNNING and now.fault_path is Entry.NONE
            if runs and now.cpu_ns > first.cpu_ns:
                return now
        raise ProbeFailed(
            f"The vCPU does not run ({now.state} {now.wchan}, path {now.fault_path})."
        )

    def signal(self, number: signal.Signals, deadline_s: float) -> int | None:
        """Call the vCPU back with a signal to its thread.

        :return: nanoseconds until the vCPU was back in user mode; None if that took longer than
            `deadline_s` seconds.
        """
        sent = self._clock(timed.TGKILL, self.pid, self.pid, number, rest_ns=SETTLE_NS)
        sent.check("tgkill")
        back_ns = self.back(deadline_s)
        if back_ns is not None and back_ns < sent.began_ns:
            raise ProbeFailed("The vCPU came back before the probe called it.")
        return None if back_ns is None else back_ns - sent.began_ns

    def interrupt(self, deadline_s: float) -> int | None:
        """Call the vCPU back with PTRACE_INTERRUPT, and let it run again.

        :return: nanoseconds until the thread has stopped; None if that took longer than
            `deadline_s` seconds.
        """
        sent = self._clock(timed.PTRACE, PTRACE_INTERRUPT, self.pid, 0, 0, rest_ns=SETTLE_NS)
        sent.check("ptrace")
        deadline = Deadline.after(deadline_s)
        # Only the tracer can wait for the stop, and wait4(2) has no timeout, so this polls.
        while (stop := self._clock(timed.WAIT4, self.pid, 0, WALL | os.WNOHANG, 0)).result == 0:
            if deadline.passed:
                return None
        stop.check("wait4")
        ptrace(PTRACE_CONT, self.pid)
        if self.back(deadline_s) is None:
            raise ProbeFailed("The thread stopped for its tracer, but KVM_RUN did not return.")
        return stop.ended_ns - sent.began_ns

    def add_memory(self, deadline_s: float) -> int | None:
        """Add a memory slot to the virtual machine, in the second thread.

        :return: nanoseconds that the ioctl took; None if it took longer than `deadline_s` seconds.
        """
        self._child.stdin.write(bytes([Command.ADD_MEMORY]))
        message = self._read(deadline_s)
        if message is None:
            return None
        kind, began_ns, ended_ns = message
        if kind is not Kind.CALLED:
            raise ProbeFailed("Something other than the probe has called the vCPU back.")
        return ended_ns - began_ns

    def close_userfaultfd(self, deadline_s: float) -> tuple[int, int] | None:
        """Close the userfaultfd of the memory, in the second thread.

        :return: nanoseconds until KVM_RUN returned with the byte that the guest read from the
            page, and the byte; None if that took longer than `deadline_s` seconds.
        """
        self._child.stdin.write(bytes([Command.CLOSE_USERFAULTFD]))
        deadline = Deadline.after(deadline_s)
        messages: dict[Kind, tuple[int, int]] = {}
        # The two threads write in any order.
        while len(messages) < 2:
            message = self._read(deadline.remaining_s)
            if message is None:
                return None
            messages[message[0]] = message[1:]
        if messages.keys() != {Kind.CALLED, Kind.PRINTED}:
            raise ProbeFailed("Something other than the probe has called the vCPU back.")
        (began_ns, _), (printed_ns, byte) = messages[Kind.CALLED], messages[Kind.PRINTED]
        return printed_ns - began_ns, byte

    def kill(self, deadline_s: float) -> int | None:
        """Send SIGKILL to the worker.

        :return: nanoseconds until the worker was reaped; None if that took longer than
            `deadline_s` seconds.
        """
        time.sleep(SETTLE_NS / NS_PER_S)
        sent_ns = time.monotonic_ns()
        self._child.signal(signal.SIGKILL)
        reaped_ns = self._child.reaped_within(deadline_s)
        return None if reaped_ns is None else reaped_ns - sent_ns
