# SPDX-License-Identifier: BSD-3-Clause
"""Measure how large a fleet one coordinator can have.

    .venv/bin/python tools/fleet_scale.py [--hosts N] [--processes N] [--boots N] [--sleep SECONDS]

The coordinator is the real one, and hosts join it by the real code, over TLS on loopback. But many
hosts share a process, and their boots and their doctor only sleep. There are two campaigns. In the
second one the coordinator is killed when half of the boots are made, and started again. The tool
prints

- for each campaign, the boots per second, the CPU time of the coordinator, and its peak memory,
- for the second one, the seconds from the kill until the coordinator answers again, until all hosts
  are back, and until the next boot is recorded.

It fails if a boot is missing in the record file, or is there twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from distributed import get_worker

from bench_lib import record
from bench_lib.errors import FleetUnreachable
from bench_lib.fleet import joining, performing, worker
from bench_lib.fleet.client import FleetClient
from bench_lib.fleet.facts import HostFacts
from bench_lib.fleet.performing import Offer
from bench_lib.fleet.plan import Plan
from bench_lib.fleet.status import CampaignState, CampaignStatus, FleetStatus, HostState
from bench_lib.fleet.work import Examined, Kind, Result, Work, from_json, to_json
from bench_lib.record import Kernel, RequestName, ScenarioName
from bench_lib.settings import CHECKOUT, Settings
from bench_lib.trial.case import Case
from tests.fleet import task

KICKBENCH = Path(sys.executable).with_name("kickbench")

DOCTOR_S = 1.0
"""Seconds that a pretended doctor takes."""

KERNELS = tuple(Kernel(f"6.{minor}.0-1-amd64", "#1 SMP Debian (2026-01-01)") for minor in (1, 12))
CASES = (Case(ScenarioName.IDLE, RequestName.STOP),)

UP = {HostState.READY, HostState.WORKING}
TICKS = os.sysconf("SC_CLK_TCK")

COORDINATOR, HOST, USER = "localhost", "host", "user"
"""The names of the certificates. All hosts share one."""

PORT = re.compile(r"listening on tls://\S+:(\d+);")


DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
"""The program that starts another one so that it does not outlive this one."""


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, and reap it."""
    process.kill()
    process.wait()


class Coordinator:
    """A coordinator that can be killed and started again at the same port.

    :ivar bundles: the folder of each certificate, by name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self._environment = {**os.environ, "KICKBENCH_HISTORY": str(folder)}
        shutil.copy(CHECKOUT / "asv.conf.json", folder)
        (folder / "kernels.json").write_text('{"schema": 1, "kernels": []}')
        done = subprocess.run(
            [KICKBENCH, "fleet", "ca", folder / "ca", "--json",
             "--coordinator", COORDINATOR, "--host", HOST, "--user", USER],
            check=True,
            capture_output=True,
        )  # fmt: skip
        self.bundles = {each["name"]: Path(each["folder"]) for each in json.loads(done.stdout)}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it. It may not answer yet."""
        listen = ("--listen", self.address, "--certificates", str(self.bundles[COORDINATOR]))
        with (self.folder / "coordinator.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*DIES_WITH_US, KICKBENCH, "fleet", "coordinator", *listen],
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    @property
    def peak_mib(self) -> float:
        """The largest memory that it has had so far, in MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", text)
        assert found is not None
        return int(found[1]) / 1024

    @property
    def cpu_s(self) -> float:
        """The CPU time that it has used so far, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def hosts(coordinator: Coordinator, count: int, processes: int, sleep_s: float) -> Iterator[None]:
    """Let simulated hosts join, in several processes of this program."""
    with ExitStack() as stack:
        log = stack.enter_context((coordinator.folder / "hosts.log").open("wb"))
        for number in range(processes):
            names = names_of(count)[number::processes]
            argv = [coordinator.address, str(coordinator.bundles[HOST]), str(sleep_s), *names]
            process = subprocess.Popen(
                [
                    *DIES_WITH_US,
                    sys.executable,
                    "-X",
                    "faulthandler",
                    __file__,
                    "--be-hosts",
                    *argv,
                ],
                env={**os.environ, "KICKBENCH_HISTORY": str(coordinator.folder)},
                stdout=log,
                stderr=log,
            )
            stack.callback(kill, process)
        yield


def names_of(count: int) -> list[str]:
    """The names of the hosts."""
    return [f"host{number:03}" for number in range(count)]


# In the processes of the hosts.

_name = contextvars.ContextVar[str]("_name")
"""The name of the host that joins. Each host has a context of its own."""


async def be_hosts(address: str, certificates: Path, sleep_s: float, names: list[str]) -> None:
    """Be several hosts until this is killed."""
    real_facts = joining.facts
    settings = Settings.from_environment()

    def facts(
        settings: Settings, kinds: tuple[Kind, ...], room: int, *, reboots: bool
    ) -> HostFacts:
        name = _name.get()
        mine = real_facts(settings, kinds, room, reboots=reboots)
        return dataclasses.replace(mine, name=name, machine_id=name, boot_id=name)

    def perform(text: str) -> str:
        time.sleep(sleep_s)
        # A worker's name ends with a part that is random.
        name = str(get_worker().name).rpartition("-")[0]
        return to_json(Result(tuple(task.lines(from_json(text, Work), name))))

    def examine() -> str:
        time.sleep(DOCTOR_S)
        return to_json(Examined((Kind.LAB,)))

    # Dask names a function by its module and name, so the workers of this process find these.
    for name, value in (("perform", perform), ("examine", examine)):
        setattr(performing, name, value)
    joining.facts = facts
    offer = Offer((Kind.LAB,), 1, frozenset(os.sched_getaffinity(0)))
    membership = worker.Membership(f"tls://{address}", certificates, offer)

    async def be(name: str) -> None:
        _name.set(name)
        own = dataclasses.replace(settings, runtime=settings.history / "runtime" / name)
        await worker.serve(membership, own, print)

    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(be(name))


# In this process.


async def status(coordinator: Coordinator) -> FleetStatus | None:
    """What the coordinator reports; None if it cannot be reached."""
    try:
        async with FleetClient.connect(coordinator.address, coordinator.bundles[USER]) as fleet:
            return await fleet.status()
    except FleetUnreachable:
        return None


async def until(
    coordinator: Coordinator, what: Callable[[FleetStatus], bool], look_s: float = 0.5
) -> float:
    """Wait until the status shows something, and return the time."""
    while True:
        found = await status(coordinator)
        if found is not None and what(found):
            return time.monotonic()
        await asyncio.sleep(look_s)


def up(found: FleetStatus) -> int:
    """How many hosts can work."""
    return sum(each.state in UP for each in found.hosts)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What the boots of a campaign took.

    :ivar boots: the number of boots.
    """

    boots: int
    took_s: float
    cpu_s: float
    peak_mib: float

    def __str__(self) -> str:
        return (
            f"{self.boots} boots in {self.took_s:.1f} s: {self.boots / self.took_s:.1f} per "
            f"second; the coordinator used {1000 * self.cpu_s / self.boots:.1f} ms of CPU time "
            f"per boot, and {self.peak_mib:.0f} MiB at its peak"
        )


async def submit(coordinator: Coordinator, plan: Plan) -> None:
    """Begin a campaign."""
    async with FleetClient.connect(coordinator.address, coordinator.bundles[USER]) as fleet:
        await fleet.submit(plan)


async def ended(coordinator: Coordinator, plan: Plan) -> CampaignStatus:
    """Follow a campaign to its end, as a user does."""
    async with FleetClient.connect(coordinator.address, coordinator.bundles[USER]) as fleet:
        seen = 0
        while True:
            news = await fleet.follow(plan.id, seen)
            seen = news.seen
            if news.status.state is not CampaignState.RUNNING:
                return news.status


async def made(coordinator: Coordinator, plan: Plan) -> Cost:
    """Make the boots of a campaign, and return what they took."""
    start_s, cpu_s = time.monotonic(), coordinator.cpu_s
    await submit(coordinator, plan)
    found = await ended(coordinator, plan)
    took_s = time.monotonic() - start_s
    return Cost(found.done, took_s, coordinator.cpu_s - cpu_s, coordinator.peak_mib)


def recorded(coordinator: Coordinator, plan: Plan) -> Counter[tuple[str | None, int]]:
    """How often each boot of a campaign is recorded."""
    records, _ = record.read(coordinator.folder / ".asv" / "records.jsonl")
    return Counter(place for each in records if (place := plan.place(each)) is not None)


def check(coordinator: Coordinator, plan: Plan) -> None:
    """Check that each boot of a campaign is recorded once."""
    found = recorded(coordinator, plan)
    wanted = Counter((boot.host, boot.number) for boot in plan.all_boots())
    if found != wanted:
        sys.exit(f"{(wanted - found).total()} boots are missing, and {(found - wanted).total()} "
                 "are there again.")  # fmt: skip


async def measure(options: argparse.Namespace) -> None:
    """Make the two campaigns, and print what they took."""
    each = Kind.LAB, KERNELS, CASES, options.boots // len(KERNELS), tuple(names_of(options.hosts))
    usual, broken = Plan(*each, name="usual"), Plan(*each, name="broken")
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        coordinator = Coordinator(Path(temporary))
        coordinator.start()
        stack.callback(lambda: kill(coordinator.process))
        await until(coordinator, lambda found: True)
        start_s = time.monotonic()
        stack.enter_context(hosts(coordinator, options.hosts, options.processes, options.sleep))
        joined_s = await until(coordinator, lambda found: up(found) == options.hosts)
        print(f"{options.hosts} hosts in {options.processes} processes joined and were examined in "
              f"{joined_s - start_s:.1f} s; the coordinator has {coordinator.peak_mib:.0f} MiB",
              flush=True)  # fmt: skip
        print(await made(coordinator, usual), flush=True)
        check(coordinator, usual)

        await submit(coordinator, broken)
        half = len(list(broken.all_boots())) // 2
        await until(coordinator, lambda found: found.campaigns[-1].done >= half)
        killed_s = time.monotonic()
        kill(coordinator.process)
        before = recorded(coordinator, broken).total()
        coordinator.start()
        times: Mapping[str, Callable[[FleetStatus], bool]] = {
            "answers": lambda found: True,
            "records the next boot": lambda found: found.campaigns[-1].done > before,
            "has all hosts again": lambda found: up(found) == options.hosts,
        }
        for what, is_so in times.items():
            took_s = await until(coordinator, is_so) - killed_s
            print(f"after a kill, the coordinator {what} in {took_s:.1f} s", flush=True)
        found = await ended(coordinator, broken)
        print(f"and all {found.boots} boots are made after {time.monotonic() - killed_s:.1f} s; it "
              f"had {coordinator.peak_mib:.0f} MiB at its peak")  # fmt: skip
        check(coordinator, broken)


def main() -> None:
    """Measure, or be some of the hosts."""
    if sys.argv[1:2] == ["--be-hosts"]:
        address, certificates, sleep_s, *names = sys.argv[2:]
        asyncio.run(be_hosts(address, Path(certificates), float(sleep_s), names))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--processes", type=int, default=20)
    parser.add_argument("--boots", type=int, default=50, help="of each host, under all kernels")
    parser.add_argument("--sleep", type=float, default=1.0)
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
