# SPDX-License-Identifier: BSD-3-Clause
"""A host of a fleet: a real worker in a process of its own, and Dask's scheduler, over TLS."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import pytest
from distributed import Client, Scheduler, SchedulerPlugin

from bench_lib import record
from bench_lib.deadline import Deadline
from bench_lib.errors import CertificateUnusable, FleetError, HostBusy
from bench_lib.fleet import certificates, configuration, security, unit
from bench_lib.fleet.bundle import Role
from bench_lib.fleet.facts import HostFacts
from bench_lib.fleet.performing import examine, perform
from bench_lib.fleet.work import Examined, Kind, Result, Work, from_json, to_json
from bench_lib.host import identity
from bench_lib.record import RequestName, ScenarioName
from bench_lib.trial.case import Case
from tests.conftest import HANG_S
from tests.host.conftest import GUEST, KICKBENCH, Command, all_that_is_left, processes

CASES = (
    Case(ScenarioName.IDLE, RequestName.STOP),
    Case(ScenarioName.BLACKHOLE, RequestName.STOP),
)
BOOT = Work(Kind.HOST, identity.booted(), CASES, limit_s=HANG_S)
LONG = Work(Kind.HOST, identity.booted(), CASES * 1000, limit_s=HANG_S)
"""It takes many minutes."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a CA with the bundles of a coordinator and a host."""
    folder = tmp_path_factory.mktemp("fleet") / "ca"
    with certificates.opened(folder) as authority:
        authority.make(Role.COORDINATOR, ["localhost"], 2, renew=False)
        authority.make(Role.HOST, ["host"], 2, renew=False)
    return folder


class Fleet(SchedulerPlugin):
    """A scheduler, and the workers that join it."""

    name = "fleet"

    def __init__(self, scheduler: Scheduler, client: Client) -> None:
        self.address = scheduler.address
        self._client = client
        self._joined: asyncio.Queue[HostFacts] = asyncio.Queue()
        scheduler.add_plugin(self)
        self._scheduler = scheduler

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        extra = scheduler.workers[worker].extra
        self._joined.put_nowait(msgspec.json.decode(extra["kickbench"], type=HostFacts))

    async def joined(self) -> HostFacts:
        """The facts of the next host that joins."""
        return await asyncio.wait_for(self._joined.get(), HANG_S)

    async def send_away(self) -> None:
        """End the connection to all hosts."""
        for each in list(self._scheduler.workers):
            await self._scheduler.remove_worker(each, stimulus_id="test", close=True)

    def submit(self, function: Callable[..., str], *arguments: str) -> asyncio.Task[str]:
        """Have the host do something, by resource, as the coordinator does."""
        mine = {f"host-{identity.this_host(None).machine}": 1, "room": 1}
        future = self._client.submit(function, *arguments, resources=mine, pure=False)

        async def result() -> str:
            return str(await future)

        return asyncio.create_task(result())


@asynccontextmanager
async def fleet(bundles: Path, port: int = 0) -> AsyncIterator[Fleet]:
    configuration.for_coordinator(dashboard=False)
    mine = security.load(bundles / "coordinator", role=Role.COORDINATOR)
    async with (
        Scheduler(
            host="localhost",
            port=port,
            protocol="tls",
            security=mine,
            dashboard=False,
            dashboard_address=configuration.HTTP_ADDRESS,
        ) as scheduler,
        Client(scheduler.address, security=mine, asynchronous=True) as client,
    ):
        yield Fleet(scheduler, client)


@contextmanager
def worker(address: str, bundle: Path) -> Iterator[subprocess.Popen[str]]:
    """A host that has joined a fleet; it is killed at the end if it still runs."""
    with (bundle.parent / "said").open("w") as said:
        started = subprocess.Popen(
            [KICKBENCH, "fleet", "join", address, "--certificates", bundle],
            stderr=said,
            text=True,
        )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def said(bundle: Path) -> str:
    """What the host has printed."""
    return (bundle.parent / "said").read_text()


async def seen(probe: Callable[[], object], what: str) -> None:
    """Wait until a probe finds something."""
    await Deadline.after(HANG_S).poll(lambda: probe() or None, what, 0.05)


async def running(runtime: Path) -> None:
    """Wait until a guest of a trial runs."""
    await seen(lambda: processes(runtime, GUEST), "A guest")


async def nothing_left(runtime: Path) -> None:
    await seen(lambda: not all_that_is_left(runtime), "The end of what the worker had started")


def test_a_host_makes_the_trials_of_a_boot_and_keeps_nothing(
    clean_host: Path, bundles: Path
) -> None:
    async def made() -> tuple[HostFacts, Examined, Result]:
        async with fleet(bundles) as ours:
            with worker(ours.address, bundles / "hosts/host"):
                facts = await ours.joined()
                examined = from_json(await ours.submit(examine), Examined)
                return facts, examined, from_json(await ours.submit(perform, to_json(BOOT)), Result)

    facts, examined, result = asyncio.run(made())
    assert facts.kinds == (Kind.HOST, Kind.LAB)
    assert Kind.HOST in examined.kinds
    assert result.failure is None
    records = [record.from_line(each) for each in result.lines]
    assert [each.scenario for each in records] == [each.scenario for each in CASES]
    for each in records:
        assert (each.kernel, each.boot_id) == (facts.kernel, facts.boot_id)
        assert each.machine_id == facts.machine_id == identity.machine_id()
        assert each.worker_cpu is not None
        assert 0 <= each.worker_cpu < 1
    assert not (clean_host / ".asv").exists()


def test_nothing_is_left_of_a_worker_that_is_killed(
    clean_host: Path, runtime: Path, bundles: Path
) -> None:
    async def kill() -> None:
        async with fleet(bundles) as ours:
            with worker(ours.address, bundles / "hosts/host") as killed:
                await ours.joined()
                work = ours.submit(perform, to_json(LONG))
                await running(runtime)
                killed.kill()
                await nothing_left(runtime)
                work.cancel()

    asyncio.run(kill())


def test_the_next_worker_ends_what_is_left_if_the_trials_were_killed_as_well(
    clean_host: Path, runtime: Path, bundles: Path
) -> None:
    async def kill() -> None:
        async with fleet(bundles) as ours:
            with worker(ours.address, bundles / "hosts/host") as killed:
                await ours.joined()
                work = ours.submit(perform, to_json(LONG))
                await running(runtime)
                (task,) = children(killed.pid)
                # It cannot end in order, and the worker cannot end what it leaves.
                killed.send_signal(signal.SIGSTOP)
                os.kill(task, signal.SIGKILL)
                killed.kill()
                work.cancel()
            await seen(lambda: not processes(runtime, GUEST), "The end of the guests")
            assert all_that_is_left(runtime)
            with worker(ours.address, bundles / "hosts/host"):
                await ours.joined()
                assert not all_that_is_left(runtime)

    asyncio.run(kill())
    assert "kickbench: ended folder " in said(bundles / "hosts/host")


def children(pid: int) -> list[int]:
    """The processes that the threads of a process have started."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for each in lists for child in each.read_text().split()]


def test_trials_that_do_not_end_in_time_are_ended(
    clean_host: Path, runtime: Path, bundles: Path
) -> None:
    async def made() -> Result:
        async with fleet(bundles) as ours:
            with worker(ours.address, bundles / "hosts/host"):
                await ours.joined()
                work = dataclasses.replace(LONG, limit_s=3.0)
                return from_json(await ours.submit(perform, to_json(work)), Result)

    why = "The trials of this boot did not end within 3 s, so they were ended."
    assert asyncio.run(made()) == Result(failure=why)


def test_a_host_ends_its_trials_and_joins_again_when_the_coordinator_is_lost(
    clean_host: Path, runtime: Path, bundles: Path
) -> None:
    async def lose() -> Result:
        with ExitStack() as stack:
            async with fleet(bundles) as ours:
                stack.enter_context(worker(ours.address, bundles / "hosts/host"))
                await ours.joined()
                work = ours.submit(perform, to_json(LONG))
                await running(runtime)
                work.cancel()
            await nothing_left(runtime)
            async with fleet(bundles, int(ours.address.rpartition(":")[2])) as again:
                await again.joined()
                return from_json(await again.submit(perform, to_json(BOOT)), Result)

    assert len(asyncio.run(lose()).lines) == len(CASES)
    printed = said(bundles / "hosts/host")
    assert printed.count("has joined the fleet") == 2
    assert "was lost; joining again." in printed


def test_a_host_leaves_in_order(clean_host: Path, runtime: Path, bundles: Path) -> None:
    async def leave() -> int:
        async with fleet(bundles) as ours:
            with worker(ours.address, bundles / "hosts/host") as leaving:
                await ours.joined()
                work = ours.submit(perform, to_json(LONG))
                await running(runtime)
                leaving.terminate()
                status = await asyncio.to_thread(leaving.wait, HANG_S)
                assert not all_that_is_left(runtime)
                work.cancel()
                return status

    assert asyncio.run(leave()) == 0
    assert said(bundles / "hosts/host").endswith("kickbench: This host has left the fleet.\n")


def test_a_second_worker_on_a_host_is_refused(
    clean_host: Path, kickbench: Command, bundles: Path
) -> None:
    async def join() -> subprocess.CompletedProcess[str]:
        async with fleet(bundles) as ours:
            with worker(ours.address, bundles / "hosts/host"):
                await ours.joined()
                second = ("fleet", "join", ours.address)
                folder = ("--certificates", str(bundles / "hosts/host"))
                return await asyncio.to_thread(kickbench, *second, *folder)

    done = asyncio.run(join())
    assert done.returncode == HostBusy.exit_status
    assert "This host has joined a fleet already, by process " in done.stderr


def test_a_host_of_another_fleet_keeps_trying_and_says_why(
    clean_host: Path, bundles: Path, tmp_path: Path
) -> None:
    with certificates.opened(tmp_path / "other") as authority:
        authority.make(Role.HOST, ["host"], 2, renew=False)
    stranger = tmp_path / "other/hosts/host"

    async def join() -> int:
        async with fleet(bundles) as ours:
            with worker(ours.address, stranger) as refused:
                await seen(lambda: "Trying again" in said(stranger), "The refusal")
                refused.send_signal(signal.SIGINT)
                return await asyncio.to_thread(refused.wait, HANG_S)

    assert asyncio.run(join()) == 0
    assert "do not trust each other's certificates" in said(stranger)


def test_a_host_that_the_coordinator_does_not_want_keeps_trying_and_says_so_once(
    clean_host: Path, bundles: Path
) -> None:
    async def join() -> None:
        async with fleet(bundles) as ours:
            with worker(ours.address, bundles / "hosts/host"):
                for _ in range(3):
                    await ours.joined()
                    await ours.send_away()

    asyncio.run(join())
    printed = said(bundles / "hosts/host")
    assert printed.count("has joined the fleet") == 1
    assert printed.count("let this host go at once") == 1


def test_a_host_without_a_certificate_does_not_start(
    clean_host: Path, kickbench: Command, tmp_path: Path
) -> None:
    done = kickbench("fleet", "join", "localhost:1", "--certificates", str(tmp_path))
    assert done.returncode == CertificateUnusable.exit_status


# The unit of systemd


def test_systemd_accepts_the_unit() -> None:
    arguments = unit.Arguments("lab%1:8786", reboot='sh -c "boot $1"', certificates=Path("/a b"))
    unit.verify(unit.text(arguments, 1, {"KICKBENCH_CACHE": "/a\nb %c"}))


@pytest.mark.parametrize("line", ["Restart=perhaps", "Unknown=1", "ExecStart=/no/program"])
def test_a_unit_that_systemd_would_not_obey_is_refused(line: str) -> None:
    text = unit.text(unit.Arguments("lab:8786"), 1, {})
    with pytest.raises(FleetError, match="systemd refuses the unit"):
        unit.verify(text.replace("Type=exec", f"Type=exec\n{line}"))
