# SPDX-License-Identifier: BSD-3-Clause
"""Measure what the worker of a fleet does to the latency of `stop` on its host.

    .venv/bin/python tools/fleet_latency.py [ROUNDS [TRIALS]]

In each round, TRIALS trials of `stop` are made in each of two scenarios and three situations:

- none: the host has not joined a fleet;
- idle: its worker has nothing to do;
- waiting: its worker has given the trials to a process, as in a campaign, and waits for it.

The situations take turns to go first. In all of them the same process makes the trials on the same
CPUs, and a scheduler runs on this host, on the CPU of the worker.

For each scenario and situation, the tool prints the median and the quartiles in microseconds, the
number of trials, how many of them hung, and the p-value of the Mann-Whitney test against `none`.
For each situation with a worker it prints which share of a CPU the worker used meanwhile. The tool
fails if a trial was lost.

Beside other work the latencies are those of the CPU scheduler. If that cannot be stopped, let the
tool, the worker and the guests go before it: `chrt --rr 1 .venv/bin/python tools/fleet_latency.py`.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from distributed import Client, Scheduler
from distributed.security import Security
from scipy.stats import mannwhitneyu

from bench_lib import ownership
from bench_lib.errors import KickbenchError
from bench_lib.fleet import certificates, configuration, cpus, performing, security
from bench_lib.fleet.bundle import Role
from bench_lib.fleet.performing import Offer, ThisHost
from bench_lib.fleet.work import Kind, Result, Work, from_json, to_json
from bench_lib.host import identity
from bench_lib.record import HUNG, Outcome, Record, RequestName, ScenarioName, from_line
from bench_lib.settings import Settings
from bench_lib.trial.case import Case
from bench_lib.units import NS_PER_S

SITUATIONS = ("none", "idle", "waiting")
SCENARIOS = (ScenarioName.IDLE, ScenarioName.BLACKHOLE)
LIMIT_S = 600.0
"""Seconds that the trials of one round may take."""

SETTLE_S = 3.0
"""Seconds after which a worker that has joined has nothing left to do."""


class Worker:
    """A worker in a process of its own, which is there only in some situations."""

    def __init__(self, scheduler: Scheduler, certificate: Path, cpu: int) -> None:
        self._scheduler = scheduler
        self._certificate = certificate
        self._cpu = cpu
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it if it does not run, and wait until it has joined."""
        if self._process is None:
            command = ["-m", "bench_lib.cli", "fleet", "join", self._scheduler.address]
            own = ["--cpu", str(self._cpu), "--certificates", str(self._certificate)]
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *command, *own, stderr=asyncio.subprocess.DEVNULL
            )
            while not self._scheduler.workers:  # noqa: ASYNC110  # Dask has no event
                await asyncio.sleep(0.1)
            await asyncio.sleep(SETTLE_S)

    async def end(self) -> None:
        """End it if it runs."""
        if self._process is not None:
            self._process.terminate()
            await self._process.wait()
            self._process = None

    def cpu_ns(self) -> int:
        """The CPU time that it has used, in nanoseconds; 0 if it does not run."""
        if self._process is None:
            return 0
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(each.read_text().split()[0]) for each in threads)


@asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[tuple[Scheduler, Client, Path]]:
    """A scheduler with TLS, a client of it, and the certificate of a host."""
    with certificates.opened(folder / "ca") as authority:
        made = {
            role: folder / "ca" / authority.make(role, ["localhost"], 2, renew=False).bundle.folder
            for role in (Role.COORDINATOR, Role.HOST)
        }
    configuration.for_coordinator(dashboard=False)
    credentials: Security = security.load(made[Role.COORDINATOR], role=Role.COORDINATOR)
    async with (
        Scheduler(
            host="localhost",
            port=0,
            protocol="tls",
            security=credentials,
            dashboard=False,
            dashboard_address=configuration.HTTP_ADDRESS,
        ) as scheduler,
        Client(scheduler.address, security=credentials, asynchronous=True) as client,
    ):
        yield scheduler, client, made[Role.HOST]


class Comparison:
    """What was measured in each situation."""

    def __init__(self) -> None:
        self.made: dict[str, list[Record]] = defaultdict(list)
        self.worker_ns: dict[str, int] = defaultdict(int)
        self.elapsed_ns: dict[str, int] = defaultdict(int)

    def print(self) -> None:
        """Print it."""
        for scenario in SCENARIOS:
            base = self._latencies_us("none", scenario)
            for situation in SITUATIONS:
                found = self._latencies_us(situation, scenario)
                low, median, high = statistics.quantiles(found, n=4)
                hung = sum(
                    each.outcome in HUNG and each.scenario is scenario
                    for each in self.made[situation]
                )
                p = "" if situation == "none" else f", p {mannwhitneyu(found, base).pvalue:.2f}"
                print(
                    f"{scenario:<10} {situation:<8} median {median:8.1f} us, "
                    f"quartiles {low:8.1f} to {high:8.1f}, n = {len(found)}, {hung} hung{p}"
                )
        for situation in SITUATIONS[1:]:
            share = self.worker_ns[situation] / self.elapsed_ns[situation]
            print(f"worker, {situation}: {share:.3%} of a CPU")
        noted = [each.worker_cpu for each in self.made["waiting"] if each.worker_cpu is not None]
        print(f"worker, in the records of waiting: {statistics.mean(noted):.3%} of a CPU")

    def _latencies_us(self, situation: str, scenario: ScenarioName) -> list[float]:
        """The latencies; for a trial that hung, its deadline."""
        return [each.waited_ns / 1000 for each in self.made[situation] if each.scenario is scenario]


async def measure(rounds: int, trials: int, folder: Path, settings: Settings) -> Comparison:
    """Make the trials of all rounds."""
    own, rest = cpus.pin(None)
    here = ThisHost(settings, Offer((Kind.HOST,), 1, rest))
    cases = tuple(Case(each, RequestName.STOP) for _ in range(trials) for each in SCENARIOS)
    work = Work(Kind.HOST, identity.booted(), cases, LIMIT_S)
    found = Comparison()
    async with fleet(folder) as (scheduler, client, certificate):
        worker = Worker(scheduler, certificate, own)
        try:
            for number in range(rounds):
                turn = number % len(SITUATIONS)
                for situation in SITUATIONS[turn:] + SITUATIONS[:turn]:
                    await (worker.end() if situation == "none" else worker.start())
                    began_ns, used_ns = time.monotonic_ns(), worker.cpu_ns()
                    if situation == "waiting":
                        future = client.submit(performing.perform, to_json(work), pure=False)
                        result = from_json(await future, Result)
                        # Otherwise Dask makes the trials again when this worker ends.
                        future.release()
                    else:
                        result = await asyncio.to_thread(here.perform, work)
                    found.elapsed_ns[situation] += time.monotonic_ns() - began_ns
                    found.worker_ns[situation] += worker.cpu_ns() - used_ns
                    found.made[situation] += _records(result)
        finally:
            await worker.end()
    return found


def _records(result: Result) -> list[Record]:
    if result.failure is not None:
        sys.exit(result.failure)
    made = [from_line(each) for each in result.lines]
    for each in made:
        if each.outcome is Outcome.LOST:
            sys.exit(f"A trial was lost: {each.reason}")
    return made


def main(rounds: int = 10, trials: int = 5) -> None:
    """Measure, and print the results."""
    settings = Settings.from_environment()
    ownership.refuse_if_busy(settings.runtime)
    before = os.getloadavg()[0]
    began_ns = time.monotonic_ns()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(rounds, trials, Path(folder), settings))
    found.print()
    took_s = (time.monotonic_ns() - began_ns) / NS_PER_S
    print(f"took {took_s:.0f} s; load before {before:.1f}, after {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    try:
        main(*map(int, sys.argv[1:]))
    except KickbenchError as error:
        sys.exit(str(error))
