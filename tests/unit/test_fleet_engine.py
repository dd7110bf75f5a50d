# SPDX-License-Identifier: BSD-3-Clause
"""A coordinator and hosts in one process, with Dask and TLS in between; the trials are made up."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from pathlib import Path

import msgspec
import pytest
from distributed import Worker

import bench_lib
from bench_lib import record
from bench_lib.errors import FleetRefused, KickbenchError, UnknownCampaign, UnknownHost
from bench_lib.fleet import (
    certificates,
    configuration,
    coordinator,
    engine,
    making,
    performing,
    roster,
    security,
)
from bench_lib.fleet.bundle import Role
from bench_lib.fleet.client import FleetClient
from bench_lib.fleet.facts import HostFacts
from bench_lib.fleet.plan import Plan
from bench_lib.fleet.status import CampaignState, FleetStatus, HostState, HostStatus
from bench_lib.fleet.work import Examined, Kind, Result, Work, from_json, to_json
from bench_lib.record import Host, Kernel, Outcome, Record, RequestName, ScenarioName, Setup
from bench_lib.settings import Settings
from bench_lib.trial.case import Case
from bench_lib.trial.history import History
from tests.conftest import HANG_S
from tests.make import record as a_record
from tests.unit.test_fleet_members import FACTS

OLD, NEW = Kernel("6.1.0-56-amd64", "#1"), Kernel("6.12.117-amd64", "#1")
CASES = (
    Case(ScenarioName.IDLE, RequestName.STOP),
    Case(ScenarioName.BLACKHOLE, RequestName.STOP),
)
PLAN = Plan(Kind.LAB, (OLD, NEW), CASES, boots=2, hosts=("a", "b"), patience_s=HANG_S)


class Simulated:
    """A host whose trials are made up.

    :ivar facts: what it reports; a test may change them between two joins.
    :ivar perform: what it does with work.
    """

    def __init__(self, name: str, **facts: object) -> None:
        given = {"name": name, "machine_id": name * 32, "kickbench": bench_lib.__version__, **facts}
        self.facts: HostFacts = dataclasses.replace(FACTS, **given)  # type: ignore[arg-type]
        self.perform: Callable[[Work], Result] = self.measure
        self.booted = asyncio.Event()

    def measure(self, work: Work) -> Result:
        """Return a boot of which every trial has returned."""
        assert work.limit_s > HANG_S
        kind = {Kind.HOST: "native", Kind.LAB: "lab"}[work.kind]
        made = [
            dataclasses.replace(
                a_record(),
                scenario=case.scenario,
                kernel=work.kernel,
                host=Host(kind, "kvm", self.facts.name),  # type: ignore[arg-type]
                boot_id=self.facts.boot_id,
                qemu=self.facts.qemu,
                setup=self.facts.setup,
            )
            for case in work.cases
        ]
        return Result(tuple(map(record.to_line, made)))


def free_port() -> int:
    """Return a port that stays free: the kernel gives none below 32768 to those who ask for any."""
    while True:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Fleet:
    """A coordinator and its hosts.

    :ivar said: what the coordinator reported.
    """

    def __init__(self, folder: Path, ca: Path) -> None:
        environ = {
            "HOME": str(folder),
            "KICKBENCH_HISTORY": str(folder),
            "KICKBENCH_CERTIFICATES": str(ca / "coordinator"),
        }
        self.settings = Settings.from_environment(environ)
        self.ca = ca
        self.hosts: dict[str, Simulated] = {}
        self.said: list[str] = []
        self.port = free_port()

    @property
    def address(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def coordinated(self) -> AsyncIterator[FleetClient]:
        """Run the coordinator, and be connected to it."""
        listening = asyncio.Event()

        def say(sentence: str) -> None:
            self.said.append(sentence)
            listening.set()

        serving = asyncio.create_task(coordinator.serve(self.settings, "127.0.0.1", self.port, say))
        waiting = asyncio.create_task(listening.wait())
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        try:
            async with FleetClient.connect(self.address, self.ca / "users" / "u") as client:
                yield client
        finally:
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving

    @asynccontextmanager
    async def joined(self, host: Simulated, number: int = 0) -> AsyncIterator[Worker]:
        """Have a host join, until this ends or the coordinator refuses it."""
        self.hosts[host.facts.name] = host
        secure = security.load(self.ca / "hosts" / "h", role=Role.HOST)
        facts = msgspec.json.encode(host.facts).decode()
        async with Worker(
            self.address,
            name=f"{host.facts.name} {number}",
            nthreads=host.facts.room,
            security=secure,
            resources={"room": host.facts.room, f"host-{host.facts.name}": host.facts.room},
            startup_information={"kickbench": lambda worker: facts},
            dashboard=False,
            dashboard_address=configuration.HTTP_ADDRESS,
            memory_limit=0,
        ) as worker:
            yield worker

    def slots(self) -> Counter[tuple[str, str, int, str]]:
        """How many records there are of each boot in the file."""
        found, damaged = record.read(self.settings.records)
        assert not damaged
        return Counter(
            (each.slot.campaign, each.host.machine, each.slot.number, each.kernel.release)
            for each in found
            if each.slot
        )


def replace(monkeypatch: pytest.MonkeyPatch, function: Callable[..., str]) -> None:
    """Replace a function of `performing`. It gets the name, so that Dask sends only that."""
    function.__module__, function.__qualname__ = performing.__name__, function.__name__
    monkeypatch.setattr(performing, function.__name__, function)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a CA with one certificate of each role."""
    folder = tmp_path_factory.mktemp("ca")
    with certificates.opened(folder) as authority:
        for role, name in ((Role.COORDINATOR, "c"), (Role.HOST, "h"), (Role.USER, "u")):
            authority.make(role, [name], 30, renew=False)
    return folder


@pytest.fixture
def fleet(tmp_path: Path, ca: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """A fleet without hosts, whose coordinator does not run yet."""
    made = Fleet(tmp_path, ca)
    (tmp_path / "kernels.json").write_text('{"schema": 1, "kernels": []}')

    def host() -> Simulated:
        from distributed import get_worker

        return made.hosts[str(get_worker().name).partition(" ")[0]]

    def perform(text: str) -> str:
        return to_json(host().perform(from_json(text, Work)))

    def examine() -> str:
        return to_json(Examined(host().facts.kinds))

    replace(monkeypatch, perform)
    replace(monkeypatch, examine)
    monkeypatch.setattr(engine, "LOOK_S", 0.05)
    monkeypatch.setattr(roster, "PAUSE_S", 0.01)
    return made


async def until(client: FleetClient, true: Callable[[FleetStatus], bool]) -> FleetStatus:
    """Wait until something is true of the fleet."""
    async with asyncio.timeout(HANG_S):
        while not true(status := await client.status()):  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0.02)
    return status


def host_of(status: FleetStatus, name: str) -> HostStatus:
    """Return what is known of a host."""
    return next(each for each in status.hosts if each.facts.name == name)


async def ready(client: FleetClient, *names: str) -> None:
    """Wait until these hosts are ready."""
    await until(
        client,
        lambda status: (
            set(names)
            <= {each.facts.name for each in status.hosts if each.state is HostState.READY}
        ),
    )


async def ended(client: FleetClient, plan: Plan) -> CampaignState:
    """Wait for the end of a campaign."""
    async with asyncio.timeout(HANG_S):
        seen = 0
        while True:
            progress = await client.follow(plan.id, seen)
            seen = progress.seen
            if progress.status.state is not CampaignState.RUNNING:
                return progress.status.state


Test = Callable[[FleetClient], Awaitable[None]]


def run(*contexts: Callable[[], AbstractAsyncContextManager[object]], test: Test) -> None:
    """Run a test with a coordinator, which is the first context, and hosts."""

    async def inside() -> None:
        async with AsyncExitStack() as stack:
            entered = [await stack.enter_async_context(each()) for each in contexts]
            client = entered[0]
            assert isinstance(client, FleetClient)
            await test(client)

    asyncio.run(inside())


def test_every_host_makes_every_boot_once(fleet: Fleet) -> None:
    async def test(client: FleetClient) -> None:
        await ready(client, "a", "b")
        await client.submit(PLAN)
        assert await ended(client, PLAN) is CampaignState.COMPLETE
        found = await client.records([OLD])
        assert {each.kernel for each in found} == {OLD}
        assert len(found) == 2 * 2 * len(CASES)

    a, b = Simulated("a"), Simulated("b")
    run(fleet.coordinated, lambda: fleet.joined(a), lambda: fleet.joined(b), test=test)
    assert fleet.slots() == {
        (PLAN.id, boot.host, boot.number, boot.kernel.release): len(CASES)
        for boot in PLAN.all_boots()
    }
    ledger = json.loads(fleet.settings.ledger.read_text())
    assert [each["release"] for each in ledger["kernels"]] == [OLD.release, NEW.release]


def test_any_host_makes_a_boot_that_is_bound_to_none(fleet: Fleet) -> None:
    plan = dataclasses.replace(PLAN, hosts=(), boots=4)

    async def test(client: FleetClient) -> None:
        await ready(client, "a", "b")
        await client.submit(plan)
        assert await ended(client, plan) is CampaignState.COMPLETE

    a, b = Simulated("a"), Simulated("b", room=2, kinds=(Kind.LAB,))
    run(fleet.coordinated, lambda: fleet.joined(a), lambda: fleet.joined(b), test=test)
    numbers = Counter(number for _, _, number, _ in fleet.slots())
    assert numbers == dict.fromkeys(range(8), 1)


def test_a_coordinator_goes_on_after_a_restart(fleet: Fleet) -> None:
    plan = dataclasses.replace(PLAN, hosts=("a",), boots=3)

    async def inside() -> None:
        a = Simulated("a")
        dead = threading.Event()

        def third_is_late(work: Work) -> Result:
            if len(fleet.slots()) == 2:
                dead.wait(HANG_S)
            return a.measure(work)

        a.perform = third_is_late
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(fleet.coordinated())
            host = AsyncExitStack()
            await host.enter_async_context(fleet.joined(a))
            await ready(client, "a")
            await client.submit(plan)
            await until(client, lambda status: host_of(status, "a").boots == 2)
        dead.set()
        await host.aclose()
        assert len(fleet.slots()) == 2
        a.perform = a.measure
        async with fleet.coordinated() as client, fleet.joined(a, 1):
            assert await ended(client, plan) is CampaignState.COMPLETE
        assert fleet.slots() == {
            (plan.id, "a", boot.number, boot.kernel.release): len(CASES)
            for boot in plan.all_boots()
        }

    asyncio.run(inside())


def test_a_host_that_fails_is_set_aside_and_the_others_go_on(fleet: Fleet) -> None:
    async def test(client: FleetClient) -> None:
        await ready(client, "a", "b")
        await client.submit(PLAN)
        assert await ended(client, PLAN) is CampaignState.INCOMPLETE
        status = await client.status()
        broken = host_of(status, "b")
        assert broken.state is HostState.SET_ASIDE
        assert "The disk is full." in (broken.reason or "")
        assert host_of(status, "a").state is HostState.READY
        assert status.campaigns[0].done == 4
        assert "set aside" in status.campaigns[0].missing[0]
        # The operator repairs it, and the same command goes on.
        b.perform = b.measure
        await client.drain("b", undo=True)
        await client.submit(PLAN)
        assert await ended(client, PLAN) is CampaignState.COMPLETE

    a, b = Simulated("a"), Simulated("b")
    b.perform = lambda work: Result(failure="The disk is full.")
    run(fleet.coordinated, lambda: fleet.joined(a), lambda: fleet.joined(b), test=test)
    assert set(fleet.slots().values()) == {len(CASES)}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda host, work: Result(host.measure(work).lines[:1]),
        lambda host, work: Result(
            host.measure(dataclasses.replace(work, kernel=Kernel("6.6", "#1"))).lines
        ),
        lambda host, work: Result(Simulated("z").measure(work).lines),
        lambda host, work: Result(host.measure(dataclasses.replace(work, kind=Kind.HOST)).lines),
        lambda host, work: Result(("not a record",) * len(work.cases)),
    ],
    ids=["half a boot", "another kernel", "another host", "another kind", "no record"],
)
def test_records_of_something_else_are_not_kept(
    fleet: Fleet, wrong: Callable[[Simulated, Work], Result]
) -> None:
    plan = dataclasses.replace(PLAN, hosts=("a",))

    async def test(client: FleetClient) -> None:
        await ready(client, "a")
        await client.submit(plan)
        assert await ended(client, plan) is CampaignState.INCOMPLETE

    a = Simulated("a")
    a.perform = lambda work: wrong(a, work)
    run(fleet.coordinated, lambda: fleet.joined(a), test=test)
    assert not fleet.slots()


def test_a_second_machine_of_one_name_is_refused(fleet: Fleet) -> None:
    async def test(client: FleetClient) -> None:
        await ready(client, "a")
        async with fleet.joined(Simulated("a", machine_id="f" * 32), 1) as worker:
            await worker.finished()
        status = await client.status()
        assert host_of(status, "a").facts.machine_id == "a" * 32
        assert "hostnamectl" in status.refused[0].reason

    a = Simulated("a")
    run(fleet.coordinated, lambda: fleet.joined(a), test=test)


def test_a_clone_does_not_throw_out_the_host_that_joined_first(fleet: Fleet) -> None:
    async def test(client: FleetClient) -> None:
        await ready(client, "a")
        async with fleet.joined(a, 1) as clone:
            await clone.finished()
        status = await client.status()
        assert "same machine id" in status.refused[0].reason
        assert host_of(status, "a").state is HostState.READY

    a = Simulated("a")
    run(fleet.coordinated, lambda: fleet.joined(a), test=test)


def test_another_version_of_kickbench_is_set_aside(fleet: Fleet) -> None:
    async def test(client: FleetClient) -> None:
        status = await until(client, lambda status: bool(status.hosts))
        assert host_of(status, "a").state is HostState.SET_ASIDE
        assert "0.0.1" in (host_of(status, "a").reason or "")

    a = Simulated("a", kickbench="0.0.1")
    run(fleet.coordinated, lambda: fleet.joined(a), test=test)


@pytest.mark.parametrize(
    "change, words",
    [({"qemu": "9.9.9"}, "QEMU is 9.9.9"), ({"setup": Setup(governor="powersave")}, "powersave")],
)
def test_a_change_of_a_host_in_the_middle_of_a_campaign_is_noticed(
    fleet: Fleet, change: dict[str, object], words: str
) -> None:
    plan = dataclasses.replace(PLAN, hosts=("a",))

    async def inside() -> None:
        a = Simulated("a")
        async with fleet.coordinated() as client:
            async with fleet.joined(a) as worker:
                await ready(client, "a")
                measured = asyncio.Event()
                loop = asyncio.get_running_loop()

                def first(work: Work) -> Result:
                    if fleet.slots():
                        loop.call_soon_threadsafe(measured.set)
                        return Result(failure="This one is broken off.")
                    return a.measure(work)

                a.perform = first
                await client.submit(plan)
                await measured.wait()
                await worker.close()
            a.facts = dataclasses.replace(a.facts, **change)  # type: ignore[arg-type]
            async with fleet.joined(a, 1):
                status = await until(
                    client, lambda status: host_of(status, "a").state is HostState.SET_ASIDE
                )
                assert words in (host_of(status, "a").reason or "")

    asyncio.run(inside())


def test_host_work_counts_one_boot_of_a_host_once(fleet: Fleet) -> None:
    plan = dataclasses.replace(
        PLAN, kind=Kind.HOST, hosts=("a",), kernels=(NEW,), boots=2, patience_s=0.01
    )

    async def inside() -> None:
        a = Simulated("a", boot_id="first")
        async with fleet.coordinated() as client:
            async with fleet.joined(a):
                await ready(client, "a")
                await client.submit(plan)
                assert await ended(client, plan) is CampaignState.INCOMPLETE
                status = await client.status()
                assert status.campaigns[0].done == 1
                assert "boot it again" in status.campaigns[0].missing[0]
            a.facts = dataclasses.replace(a.facts, boot_id="second")
            async with fleet.joined(a, 1):
                await ready(client, "a")
                await client.submit(plan)
                assert await ended(client, plan) is CampaignState.COMPLETE

    asyncio.run(inside())


def rebooting(
    fleet: Fleet,
    monkeypatch: pytest.MonkeyPatch,
    test: Callable[[FleetClient, list[str]], Awaitable[None]],
) -> list[str]:
    """Run a test with a host that can be rebooted, and return what it was told to boot."""
    booted: list[str] = []

    async def inside() -> None:
        a = Simulated("a", boot_id="0", installed=(OLD, NEW), reboots=True)
        loop = asyncio.get_running_loop()

        def reboot(release: str) -> str:
            booted.append(release)
            kernel = {OLD.release: OLD, NEW.release: NEW}[release]
            a.facts = dataclasses.replace(a.facts, boot_id=str(len(booted)), kernel=kernel)
            loop.call_soon_threadsafe(a.booted.set)
            return to_json(Result())

        replace(monkeypatch, reboot)
        async with fleet.coordinated() as client:

            async def power() -> None:
                number = 0
                while True:
                    a.booted.clear()
                    async with fleet.joined(a, number):
                        await a.booted.wait()
                    number += 1

            machine = asyncio.create_task(power())
            await ready(client, "a")
            await test(client, booted)
            machine.cancel()
            with suppress(asyncio.CancelledError):
                await machine

    asyncio.run(inside())
    return booted


def test_a_host_is_rebooted_into_each_kernel_in_turns(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = dataclasses.replace(PLAN, kind=Kind.HOST, hosts=("a",), boots=2, reboot=True)

    async def test(client: FleetClient, booted: list[str]) -> None:
        await client.submit(plan)
        assert await ended(client, plan) is CampaignState.COMPLETE

    booted = rebooting(fleet, monkeypatch, test)
    # It had booted NEW when it joined, so boot 1 of the four (OLD, NEW, NEW, OLD) was made first.
    assert booted == [OLD.release, NEW.release, OLD.release]
    found, _ = record.read(fleet.settings.records)
    assert sorted({(each.slot.number, each.boot_id) for each in found if each.slot}) == [
        (0, "1"),
        (1, "0"),
        (2, "2"),
        (3, "3"),
    ]


def test_a_busy_host_is_asked_again(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "BUSY_S", 0.01)
    plan = dataclasses.replace(PLAN, hosts=("a",), boots=1)
    answers = [Result(failure="Another run is measuring.", busy=True)] * 5

    async def test(client: FleetClient) -> None:
        await ready(client, "a")
        await client.submit(plan)
        assert await ended(client, plan) is CampaignState.COMPLETE
        assert host_of(await client.status(), "a").failures == 0

    a = Simulated("a")
    a.perform = lambda work: answers.pop() if answers else a.measure(work)
    run(fleet.coordinated, lambda: fleet.joined(a), test=test)


def test_records_wait_for_room_on_the_disk(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "FULL_S", 0.01)
    plan = dataclasses.replace(PLAN, hosts=("a",), boots=1)
    # A folder cannot be appended to.
    fleet.settings.records.mkdir(parents=True)

    async def inside() -> None:
        a = Simulated("a")
        with pytest.raises(bench_lib.errors.StoreError):
            async with fleet.coordinated():
                pass
        fleet.settings.records.rmdir()
        async with fleet.coordinated() as client, fleet.joined(a):
            await ready(client, "a")
            fleet.settings.records.mkdir()
            with pytest.raises(bench_lib.errors.StoreError):
                await client.submit(plan)
            fleet.settings.records.rmdir()

            def blocked(work: Work) -> Result:
                if not fleet.settings.records.exists():
                    fleet.settings.records.mkdir()
                return a.measure(work)

            a.perform = blocked
            await client.submit(plan)
            status = await until(client, lambda status: bool(status.campaigns[0].warnings))
            assert "could not be appended" in status.campaigns[0].warnings[0]
            a.perform = a.measure
            fleet.settings.records.rmdir()
            assert await ended(client, plan) is CampaignState.COMPLETE

    asyncio.run(inside())
    assert set(fleet.slots().values()) == {len(CASES)}


def test_a_cancelled_campaign_goes_on_if_it_is_submitted_again(fleet: Fleet) -> None:
    plan = dataclasses.replace(PLAN, hosts=("a",))

    async def inside() -> None:
        a = Simulated("a")
        async with fleet.coordinated() as client:
            await ready_after_joining(client, a)

    async def ready_after_joining(client: FleetClient, a: Simulated) -> None:
        async with fleet.joined(a):
            await ready(client, "a")
            await client.drain("a", undo=False)
            await client.submit(plan)
            await client.cancel(plan.id)
            assert await ended(client, plan) is CampaignState.CANCELLED
            await client.drain("a", undo=True)
            await client.submit(plan)
            assert await ended(client, plan) is CampaignState.COMPLETE

    asyncio.run(inside())


def test_only_the_newest_campaigns_that_have_ended_are_remembered(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "MOST_ENDED", 2)
    plans = [
        dataclasses.replace(PLAN, hosts=("a",), boots=1, name=str(number)) for number in range(5)
    ]

    async def test(client: FleetClient) -> None:
        await ready(client, "a")
        for plan in plans:
            await client.submit(plan)
            assert await ended(client, plan) is CampaignState.COMPLETE
        found = [each.id for each in (await client.status()).campaigns]
        assert found == [plan.id for plan in plans[2:]]
        # Its records are there, so nothing is made again.
        await client.submit(plans[0])
        assert await ended(client, plans[0]) is CampaignState.COMPLETE

    a = Simulated("a")
    run(fleet.coordinated, lambda: fleet.joined(a), test=test)
    assert set(fleet.slots().values()) == {len(CASES)}


def test_a_drained_host_makes_no_boots(fleet: Fleet) -> None:
    async def test(client: FleetClient) -> None:
        await ready(client, "a", "b")
        await client.drain("b", undo=False)
        plan = dataclasses.replace(PLAN, patience_s=0.01)
        await client.submit(plan)
        assert await ended(client, plan) is CampaignState.INCOMPLETE
        status = await client.status()
        assert host_of(status, "b").state is HostState.DRAINED
        assert host_of(status, "b").boots == 0

    a, b = Simulated("a"), Simulated("b")
    run(fleet.coordinated, lambda: fleet.joined(a), lambda: fleet.joined(b), test=test)
    assert {host for _, host, _, _ in fleet.slots()} == {"a"}


def test_what_the_coordinator_remembers_of_hosts_survives_a_restart(fleet: Fleet) -> None:
    async def inside() -> None:
        a = Simulated("a")
        async with fleet.coordinated() as client, fleet.joined(a):
            await ready(client, "a")
            await client.drain("a", undo=False)
        async with fleet.coordinated() as client:
            status = await client.status()
            assert host_of(status, "a").state is HostState.AWAY
            async with fleet.joined(a, 1):
                await until(client, lambda status: host_of(status, "a").state is HostState.DRAINED)

    asyncio.run(inside())


def test_work_for_any_host_goes_only_to_those_in_use(fleet: Fleet) -> None:
    plan = dataclasses.replace(PLAN, hosts=(), boots=4)

    async def test(client: FleetClient) -> None:
        await ready(client, "a", "b")
        await client.drain("b", undo=False)
        await client.submit(plan)
        assert await ended(client, plan) is CampaignState.COMPLETE

    a, b = Simulated("a"), Simulated("b")
    run(fleet.coordinated, lambda: fleet.joined(a), lambda: fleet.joined(b), test=test)
    assert {host for _, host, _, _ in fleet.slots()} == {"a"}


def test_a_host_that_is_readmitted_goes_on_with_a_campaign_that_runs(fleet: Fleet) -> None:
    async def test(client: FleetClient) -> None:
        await ready(client, "a", "b")
        working = asyncio.Event()
        loop = asyncio.get_running_loop()
        over = threading.Event()

        def slow(work: Work) -> Result:
            loop.call_soon_threadsafe(working.set)
            over.wait(HANG_S)
            return a.measure(work)

        a.perform = slow
        await client.submit(PLAN)
        await working.wait()
        await until(client, lambda status: host_of(status, "b").state is HostState.SET_ASIDE)
        await until(client, lambda status: bool(status.campaigns[0].missing))
        b.perform = b.measure
        await client.drain("b", undo=True)
        await until(client, lambda status: host_of(status, "b").boots == 4)
        over.set()
        assert await ended(client, PLAN) is CampaignState.COMPLETE

    a, b = Simulated("a"), Simulated("b")
    b.perform = lambda work: Result(failure="The disk is full.")
    run(fleet.coordinated, lambda: fleet.joined(a), lambda: fleet.joined(b), test=test)


def test_a_kernel_that_cannot_be_fetched_is_not_the_fault_of_the_host(fleet: Fleet) -> None:
    plan = dataclasses.replace(PLAN, hosts=("a",))

    async def test(client: FleetClient) -> None:
        await ready(client, "a")
        await client.submit(plan)
        assert await ended(client, plan) is CampaignState.INCOMPLETE
        status = await client.status()
        assert host_of(status, "a").state is HostState.READY
        assert status.campaigns[0].done == 2
        assert "no longer" in status.campaigns[0].missing[0]

    def only_new(work: Work) -> Result:
        if work.kernel == NEW:
            return a.measure(work)
        return Result(failure="Debian has it no longer.", by_kernel=True)

    a = Simulated("a")
    a.perform = only_new
    run(fleet.coordinated, lambda: fleet.joined(a), test=test)


def test_two_campaigns_that_reboot_one_host_do_not_undo_each_others_reboots(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = [
        dataclasses.replace(
            PLAN, kind=Kind.HOST, hosts=("a",), boots=2, reboot=True, name=f"campaign {number}"
        )
        for number in range(2)
    ]

    async def test(client: FleetClient, booted: list[str]) -> None:
        for plan in plans:
            await client.submit(plan)
        for plan in plans:
            assert await ended(client, plan) is CampaignState.COMPLETE

    booted = rebooting(fleet, monkeypatch, test)
    # Each of the eight boots needs at most one.
    assert len(booted) <= 8


def test_a_host_that_is_busy_is_asked_again_to_reboot(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = dataclasses.replace(PLAN, kind=Kind.HOST, hosts=("a",), boots=1, reboot=True)

    async def test(client: FleetClient, booted: list[str]) -> None:
        real, answers = performing.reboot, [Result(failure="Another run.", busy=True)] * 4

        def reboot(release: str) -> str:
            return to_json(answers.pop()) if answers else real(release)

        replace(monkeypatch, reboot)
        await client.submit(plan)
        assert await ended(client, plan) is CampaignState.COMPLETE

    rebooting(fleet, monkeypatch, test)


def test_a_cancelled_append_is_taken_down_nevertheless(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = dataclasses.replace(PLAN, hosts=("a",), boots=1)
    real = History.keep
    appending, go_on = threading.Event(), threading.Event()

    def slowly(self: History, *made: Record) -> None:
        appending.set()
        go_on.wait(HANG_S)
        real(self, *made)

    monkeypatch.setattr(History, "keep", slowly)

    async def test(client: FleetClient) -> None:
        await ready(client, "a")
        await client.submit(plan)
        await asyncio.to_thread(appending.wait, HANG_S)
        cancelling = asyncio.create_task(client.cancel(plan.id))
        await asyncio.sleep(0)
        go_on.set()
        await cancelling
        await client.submit(plan)
        assert await ended(client, plan) is CampaignState.COMPLETE

    a = Simulated("a")
    run(fleet.coordinated, lambda: fleet.joined(a), test=test)
    assert set(fleet.slots().values()) == {len(CASES)}


def test_what_cannot_be_carried_out_is_refused(fleet: Fleet) -> None:
    async def test(client: FleetClient) -> None:
        with pytest.raises(UnknownHost, match="none"):
            await client.submit(PLAN)
        with pytest.raises(FleetRefused, match="bound to hosts"):
            await client.submit(dataclasses.replace(PLAN, kind=Kind.HOST, hosts=()))
        with pytest.raises(FleetRefused, match="needs kernels"):
            await client.submit(dataclasses.replace(PLAN, kernels=(), hosts=()))
        for wrong in (
            {"boots": 10**9},
            {"kernels": (OLD, OLD)},
            {"patience_s": -1.0},
            {"settings": {"KICKBENCH_DEADLINE": "soon"}},
        ):
            with pytest.raises(KickbenchError):
                await client.submit(dataclasses.replace(PLAN, hosts=(), **wrong))
        assert (await client.status()).campaigns == ()
        with pytest.raises(UnknownHost):
            await client.drain("z", undo=False)
        for unknown in (client.cancel("z"), client.follow("z", 0)):
            with pytest.raises(UnknownCampaign):
                await unknown

    run(fleet.coordinated, test=test)


def test_damaged_lines_are_left_out_of_the_records_that_users_get(fleet: Fleet) -> None:
    good = dataclasses.replace(a_record(), kernel=OLD)
    # An edited record, which says that it returned after no time at all.
    wrong = record.to_line(good).replace('"latency_ns":1000000', '"latency_ns":null')
    assert wrong != record.to_line(good)
    fleet.settings.records.parent.mkdir()
    fleet.settings.records.write_text(f"{wrong}\n{record.to_line(good)}\n{{\nnothing\n")

    async def test(client: FleetClient) -> None:
        assert await client.records([OLD]) == [good]
        assert await client.records([NEW]) == []

    run(fleet.coordinated, test=test)


def test_a_user_of_another_version_is_refused(fleet: Fleet) -> None:
    async def test(client: FleetClient) -> None:
        # Both ends read the version here, so the one end has to have another one.
        answer = await client._remote.kickbench_status(version="0.0.1")
        assert json.loads(answer)["error"][0] == "FleetRefused"
        assert "0.0.1" in answer

    run(fleet.coordinated, test=test)


def test_a_worker_that_is_not_kickbench_is_refused(fleet: Fleet) -> None:
    async def test(client: FleetClient) -> None:
        secure = security.load(fleet.ca / "hosts" / "h", role=Role.HOST)
        async with Worker(
            fleet.address, security=secure, dashboard=False, memory_limit=0
        ) as worker:
            await worker.finished()
        status = await client.status()
        assert not status.hosts
        assert "not a host" in status.refused[0].reason

    run(fleet.coordinated, test=test)


def test_lost_trials_are_counted(fleet: Fleet) -> None:
    plan = dataclasses.replace(PLAN, hosts=("a",), boots=1)

    async def test(client: FleetClient) -> None:
        await ready(client, "a")
        await client.submit(plan)
        assert await ended(client, plan) is CampaignState.COMPLETE
        status = await client.status()
        assert (status.campaigns[0].trials, status.campaigns[0].lost) == (4, 4)
        assert host_of(status, "a").lost == 4

    a = Simulated("a")

    def lost(work: Work) -> Result:
        found = [record.from_line(line) for line in a.measure(work).lines]
        gone = [
            dataclasses.replace(each, outcome=Outcome.LOST, latency_ns=None, reason="No room.")
            for each in found
        ]
        return Result(tuple(map(record.to_line, gone)))

    a.perform = lost
    run(fleet.coordinated, lambda: fleet.joined(a), test=test)
