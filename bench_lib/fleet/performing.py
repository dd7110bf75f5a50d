# SPDX-License-Identifier: BSD-3-Clause
"""What a host does for the coordinator: make the trials of a boot, examine itself, and reboot.

`perform`, `examine` and `reboot` run in threads of a worker, which Dask gives their names to. They
take and return JSON, and what can be expected to fail is in their results.
"""

from __future__ import annotations

import os
import shlex
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import msgspec
from dask.typing import Key
from distributed import Worker, WorkerPlugin, get_worker

from bench_lib import ownership, process, record
from bench_lib.errors import (
    FetchFailed,
    GuestKernelMissing,
    HostBusy,
    KernelUnusable,
    KickbenchError,
    UnknownKernel,
    WrongKernel,
)
from bench_lib.fleet.command import Command, Done
from bench_lib.fleet.work import Examined, Finding, Kind, Result, Work, from_json, to_json
from bench_lib.settings import Settings
from bench_lib.trial import leftovers

DOCTOR_LIMIT_S = 300.0
"""Seconds that the doctor may take. It takes some seconds, and longer beside other work."""

OF_KERNEL = {
    each.exit_status
    for each in (WrongKernel, UnknownKernel, FetchFailed, KernelUnusable, GuestKernelMissing)
}
"""The exit statuses of a process that could not get its kernel."""

END = "kickbench_end"
"""The handler of a worker that ends what it was asked to do."""

REFUSE = "kickbench_refuse"
"""The handler of a worker that is told why the coordinator does not want it."""

NAME = "kickbench"
"""The name under which a worker has its `ThisHost`."""


def perform(work_json: str) -> str:
    """Make the trials of one boot.

    :param work_json: a `Work`.
    :return: a `Result`.
    """
    return to_json(_host().perform(from_json(work_json, Work), _key()))


def examine() -> str:
    """Find out with the doctor what this host can do.

    :return: an `Examined`.
    """
    return to_json(_host().examine(_key()))


def reboot(release: str) -> str:
    """Have the operator's command boot this host into another kernel.

    :return: a `Result` without records.
    """
    return to_json(_host().reboot(release))


def _host() -> ThisHost:
    host = get_worker().plugins[NAME]
    assert isinstance(host, ThisHost)
    return host


def _key() -> Key:
    """Return Dask's name of what this thread was asked to do."""
    return get_worker().get_current_task()


class _Row(msgspec.Struct):
    """A row of the doctor's JSON."""

    name: str
    status: str
    found: str
    means: str
    fix: str | None

    def finding(self) -> Finding:
        means = f"; {self.means}" if self.means else ""
        fix = f"; run `{self.fix}`" if self.fix else ""
        return Finding(self.name, self.status, f"{self.found.rstrip('.')}{means}{fix}.")


class _Doctor(msgspec.Struct):
    """The doctor's JSON."""

    native: bool
    lab: bool
    rows: list[_Row]


@dataclass(frozen=True)
class Offer:
    """What a host offers to the fleet.

    :ivar kinds: the kinds of work.
    :ivar room: how many boots it makes at once.
    :ivar cpus: the CPUs for whatever is not the worker itself.
    :ivar reboot: the command that boots the host into a kernel, whose release is appended to it;
        None if the fleet may not do that.
    """

    kinds: tuple[Kind, ...]
    room: int
    cpus: frozenset[int]
    reboot: str | None = None


class ThisHost(WorkerPlugin):
    """This host, as its worker sees it. It ends what it has started when the worker closes.

    :ivar asked: whether the coordinator has asked for anything yet.
    :ivar refused: why the coordinator does not want this host; None if it has not said so.
    """

    name = NAME

    def __init__(self, settings: Settings, offer: Offer) -> None:
        self._settings = settings
        self._offer = offer
        self.asked = False
        self.refused: str | None = None
        self._running: dict[Command, Key | None] = {}
        self._ended: set[Key] = set()
        self._closed = False
        self._changed = threading.Condition()

    def setup(self, worker: Worker) -> None:
        worker.handlers[END] = self.end_one
        worker.handlers[REFUSE] = self.refuse

    def teardown(self, worker: Worker) -> None:
        self.end()

    def refuse(self, reason: str) -> None:
        """Take down why the coordinator does not want this host."""
        self.refused = reason

    def end_one(self, key: Key) -> None:
        """Ask one thing to end that the coordinator does not want any more.

        :param key: Dask's name of it. It may not have started yet, and then never does.
        """
        with self._changed:
            self._ended.add(key)
            for command, of in self._running.items():
                if of == key:
                    command.end()

    def end(self) -> None:
        """Ask everything to end that still runs, and let nothing start any more."""
        with self._changed:
            self._closed = True
            for each in self._running:
                each.end()

    def wait(self) -> None:
        """Wait until everything has ended, after `end`. Each `Command` has a limit."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running)

    def perform(self, work: Work, key: Key | None = None) -> Result:
        """Make the trials of one boot in a process of their own.

        :param key: the name by which `end_one` knows it.
        """
        began_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns()
        try:
            task = ["-m", "bench_lib.fleet.task"]
            done = self._run(key, task, work.settings, work.limit_s, to_json(work))
        except KickbenchError as error:
            return Result(failure=str(error))
        elapsed_ns = time.monotonic_ns() - began_ns
        if done.status != 0:
            return self._failure(done, work)
        share = (time.process_time_ns() - cpu_ns) / elapsed_ns
        return Result(tuple(_with_share(each, share) for each in done.output.splitlines()))

    def _failure(self, done: Done, work: Work) -> Result:
        if done.status is not None and done.status > 0:
            why = done.sentence or f"The trials of this boot {process.ended(done.status)}."
            return Result(
                failure=why,
                busy=done.status == HostBusy.exit_status,
                by_kernel=done.status in OF_KERNEL,
            )
        if done.status is None:
            limit = f"{work.limit_s:g} s"
            why = f"The trials of this boot did not end within {limit}, so they were ended."
        else:
            why = f"The process that made the trials of this boot {process.ended(done.status)}."
        try:
            leftovers.end(self._settings.runtime)
        except KickbenchError as error:
            why = f"{why} {error}"
        return Result(failure=why)

    def examine(self, key: Key | None = None) -> Examined:
        """Run the doctor.

        :param key: the name by which `end_one` knows it.
        """
        try:
            doctor = ["-m", "bench_lib.cli", "doctor", "--json"]
            done = self._run(key, doctor, {}, DOCTOR_LIMIT_S)
        except KickbenchError as error:
            return Examined((), failure=str(error))
        if done.status is None:
            return Examined((), failure=f"The doctor did not end within {DOCTOR_LIMIT_S:.0f} s.")
        try:
            found = msgspec.json.decode(done.output, type=_Doctor)
        except msgspec.MsgspecError:
            return Examined((), failure=done.sentence or "The doctor printed nothing.")
        can = {Kind.HOST: found.native, Kind.LAB: found.lab}
        return Examined(
            kinds=tuple(kind for kind in self._offer.kinds if can[kind]),
            findings=tuple(row.finding() for row in found.rows if row.status != "fine"),
        )

    def reboot(self, release: str) -> Result:
        """Run the operator's command, which has to return before the host goes down."""
        if self._offer.reboot is None:
            return Result(
                failure="This host was not joined with --reboot, so the fleet may not reboot it."
            )
        try:
            ownership.refuse_if_busy(self._settings.runtime)
            process.run_tool([*shlex.split(self._offer.reboot), release])
        except HostBusy as error:
            return Result(failure=str(error), busy=True)
        except KickbenchError as error:
            return Result(failure=f"This host could not be rebooted: {error}")
        return Result()

    def _run(
        self,
        key: Key | None,
        arguments: Sequence[str],
        env: Mapping[str, str],
        limit_s: float,
        stdin: str = "",
    ) -> Done:
        """Run a part of kickbench on the CPUs that are not the worker's, and sleep meanwhile.

        :raise ProgramMissing, NotStarted: it could not be started.
        """
        with self._changed:
            self.asked = True
            if self._closed or key in self._ended:
                return Done(-signal.SIGTERM, "", "")  # nothing reads the result any more
            with _on(self._offer.cpus):
                command = Command(arguments, self._settings, env, stdin)
            self._running[command] = key
        try:
            return command.wait(limit_s)
        finally:
            with self._changed:
                del self._running[command]
                self._ended.discard(key)
                self._changed.notify_all()


@contextmanager
def _on(cpus: frozenset[int]) -> Iterator[None]:
    """Let this thread use other CPUs, so that a process that it starts meanwhile inherits them."""
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


def _with_share(line: str, share: float) -> str:
    return record.to_line(replace(record.from_line(line), worker_cpu=round(share, 6)))
