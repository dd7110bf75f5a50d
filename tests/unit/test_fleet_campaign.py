# SPDX-License-Identifier: BSD-3-Clause
"""`kickbench fleet campaign`: its plan, how it follows the coordinator, and what it prints."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench_lib import record
from bench_lib.cli import main
from bench_lib.cli.fleet import following, planning
from bench_lib.errors import (
    CampaignIncomplete,
    FleetUnreachable,
    KernelAmbiguous,
    MemoryDamaged,
    UnknownHost,
    UnknownKernel,
    UsageError,
)
from bench_lib.fleet import campaigns
from bench_lib.fleet.plan import Plan
from bench_lib.fleet.progress import Progress
from bench_lib.fleet.status import CampaignState, CampaignStatus, FleetStatus, HostState
from bench_lib.fleet.work import Kind
from bench_lib.kernel.ledger import Build, Ledger, describe
from bench_lib.record import Kernel, Record, Recovery, RequestName, ScenarioName, Slot
from bench_lib.settings import Settings
from bench_lib.trial.case import Case
from tests import fleets
from tests.make import KERNEL
from tests.make import record as make

OLD = Kernel("6.1.0-41-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.158-1 (2025-11-09)")
NEW = Kernel("6.12.94+deb13-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.94-1 (2026-07-09)")
OWN = Kernel("6.18.0", "#1 SMP Mon Nov 2 10:00:00 UTC 2026")
REBUILT = Kernel("6.18.0", "#2 SMP Tue Nov 3 10:00:00 UTC 2026")
BROKEN = FleetUnreachable("The coordinator at lab1 cannot be reached.")


# Which hosts.


def test_all_hosts_that_are_in_use_and_can_do_the_work_are_chosen() -> None:
    fleet = fleets.fleet(
        fleets.host("ready"),
        fleets.host("away", state=HostState.AWAY),
        fleets.host("drained", state=HostState.DRAINED),
        fleets.host("broken", state=HostState.SET_ASIDE, reason="It is full."),
        fleets.host(fleets.facts("labs", kinds=(Kind.LAB,))),
    )
    assert [each.facts.name for each in planning.hosts(fleet, Kind.HOST, [])] == ["ready", "away"]
    assert [each.facts.name for each in planning.hosts(fleet, Kind.LAB, [])] == [
        "ready", "away", "labs",
    ]  # fmt: skip


def test_hosts_that_are_named_are_chosen_once_whatever_their_state() -> None:
    fleet = fleets.fleet(
        fleets.host("alpha"), fleets.host("beta", state=HostState.SET_ASIDE, reason="It is full.")
    )
    chosen = planning.hosts(fleet, Kind.HOST, ["beta", "alpha", "beta"])
    assert [each.facts.name for each in chosen] == ["beta", "alpha"]
    assert planning.remarks(chosen) == [
        "beta is set aside and makes no boots until `kickbench fleet drain beta --undo`: "
        "It is full."
    ]


def test_an_unknown_host_is_refused_with_the_names_that_there_are() -> None:
    fleet = fleets.fleet(fleets.host("alpha"), fleets.host("beta"))
    with pytest.raises(UnknownHost, match=r"no host gamma; its hosts are: alpha, beta\."):
        planning.hosts(fleet, Kind.LAB, ["alpha", "gamma"])


def test_a_host_that_does_not_offer_the_work_is_refused() -> None:
    fleet = fleets.fleet(fleets.host(fleets.facts("labs", kinds=(Kind.LAB,))))
    with pytest.raises(UsageError, match="labs does lab work, but not host work"):
        planning.hosts(fleet, Kind.HOST, ["labs"])


def test_without_a_host_that_can_the_reasons_are_given() -> None:
    fleet = fleets.fleet(
        fleets.host("alpha", state=HostState.DRAINED),
        fleets.host(fleets.facts("labs", kinds=(Kind.LAB,))),
    )
    with pytest.raises(UnknownHost, match="alpha is drained; labs does not offer it"):
        planning.hosts(fleet, Kind.HOST, [])
    with pytest.raises(UnknownHost, match="none has joined"):
        planning.hosts(fleets.fleet(), Kind.HOST, [])


def test_hosts_that_may_not_be_rebooted_are_named() -> None:
    willing = fleets.host(fleets.facts("alpha", reboots=True))
    planning.check_reboots([willing])
    with pytest.raises(UsageError, match="beta and gamma may not be rebooted"):
        planning.check_reboots([willing, fleets.host("beta"), fleets.host("gamma")])


# Which kernels.


@pytest.fixture
def settings(history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An empty history and cache."""
    monkeypatch.setenv("KICKBENCH_CACHE", str(tmp_path / "cache"))
    return Settings.from_environment()


def no_fetch(name: str) -> Build:
    raise AssertionError(f"{name} was fetched")


def test_host_work_means_a_kernel_that_the_hosts_have(settings: Settings) -> None:
    facts = [
        fleets.facts("alpha", OLD, installed=(OLD, NEW)),
        fleets.facts("beta", NEW, installed=(NEW,)),
    ]
    Ledger(settings.ledger).add(describe(KERNEL))
    names = ["debian/6.1", NEW.release, f"v{NEW.release}"]
    assert planning.kernels(settings, names, Kind.HOST, facts, no_fetch) == [OLD, NEW]


def test_host_work_may_mean_a_kernel_that_only_the_ledger_has(settings: Settings) -> None:
    Ledger(settings.ledger).add(describe(OLD))
    facts = [fleets.facts("alpha", NEW)]
    assert planning.kernels(settings, [OLD.release], Kind.HOST, facts, no_fetch) == [OLD]


def test_host_work_never_fetches_a_kernel(settings: Settings) -> None:
    with pytest.raises(UnknownKernel, match=r"that the hosts have.* 6\.12\.94\+deb13"):
        planning.kernels(
            settings, ["6.12.9-amd64"], Kind.HOST, [fleets.facts("alpha", NEW)], no_fetch
        )


def test_host_work_refuses_a_release_of_which_the_hosts_have_several_builds(
    settings: Settings,
) -> None:
    facts = [fleets.facts("alpha", OWN), fleets.facts("beta", REBUILT)]
    with pytest.raises(KernelAmbiguous, match="means 2 builds") as raised:
        planning.kernels(settings, ["6.18.0"], Kind.HOST, facts, no_fetch)
    own = describe(OWN).id
    assert own[:12] in str(raised.value)
    assert planning.kernels(settings, [own[:12]], Kind.HOST, facts, no_fetch) == [OWN]


def test_booted_means_the_kernel_that_all_hosts_run(settings: Settings) -> None:
    alike = [fleets.facts("alpha", NEW), fleets.facts("beta", NEW)]
    assert planning.kernels(settings, ["booted"], Kind.HOST, alike, no_fetch) == [NEW]
    other = [*alike, fleets.facts("gamma", OLD)]
    with pytest.raises(UsageError) as raised:
        planning.kernels(settings, ["booted"], Kind.HOST, other, no_fetch)
    assert f"{NEW.release} ({NEW.version}) on alpha and beta; {OLD.release}" in str(raised.value)


def test_no_lab_can_boot_booted(settings: Settings) -> None:
    with pytest.raises(UsageError, match="--work host"):
        planning.kernels(settings, ["booted"], Kind.LAB, [fleets.facts()], no_fetch)


def test_lab_work_means_a_known_kernel_before_one_of_a_host(settings: Settings) -> None:
    Ledger(settings.ledger).add(describe(OLD))
    facts = [fleets.facts("alpha", KERNEL)]  # also of debian/6.1, and newer
    assert planning.kernels(settings, ["debian/6.1"], Kind.LAB, facts, no_fetch) == [OLD]
    assert planning.kernels(settings, [KERNEL.release], Kind.LAB, facts, no_fetch) == [KERNEL]


def test_lab_work_fetches_a_kernel_that_only_debian_has(settings: Settings) -> None:
    fetched: list[str] = []

    def fetch(name: str) -> Build:
        fetched.append(name)
        return describe(NEW)

    found = planning.kernels(settings, ["debian/6.12"], Kind.LAB, [fleets.facts()], fetch)
    assert (found, fetched) == ([NEW], ["debian/6.12"])


# Following.

CASE = Case(ScenarioName.BLACKHOLE, RequestName.STOP)
PLAN = Plan(Kind.LAB, (OLD,), (CASE,), boots=2, hosts=("somewhere",))


def boot(number: int, plan: Plan = PLAN, **changes: object) -> Record:
    """The only trial of a boot of a campaign."""
    made = dataclasses.replace(make(kernel=OLD, seq=number + 1), slot=Slot(plan.id, number))
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


class Coordinator:
    """A coordinator with one campaign, which makes a boot each time that a user asks for news.

    :ivar breaks: before how many answers about the campaign the connection breaks.
    :ivar submitted: the plans that users have submitted.
    """

    def __init__(
        self,
        made: Sequence[Record],
        *,
        missing: tuple[str, ...] = (),
        breaks: int = 0,
        fleet: FleetStatus | None = None,
    ) -> None:
        self.kept: list[Record] = []
        self.coming = list(made)
        self.missing = missing
        self.breaks = breaks
        self.fleet = fleet or fleets.fleet(fleets.host("somewhere"))
        self.submitted: list[Plan] = []
        self.connections = 0
        self.cancelled = False

    @asynccontextmanager
    async def connect(self, settings: Settings | None = None) -> AsyncIterator[Coordinator]:
        self.connections += 1
        yield self

    async def status(self) -> FleetStatus:
        return self.fleet

    async def submit(self, plan: Plan) -> CampaignStatus:
        self.submitted.append(plan)
        return self._campaign()

    async def follow(self, id: str, seen: int) -> Progress:  # noqa: A002
        assert id == self.submitted[0].id
        if self.breaks and self.kept:
            self.breaks -= 1
            raise BROKEN
        if self.coming:
            self.kept.append(dataclasses.replace(self.coming.pop(0), slot=self._slot()))
        lines = tuple(record.to_line(each) for each in self.kept[seen:])
        return Progress(len(self.kept), self._campaign(), lines)

    async def records(self, kernels: Sequence[Kernel]) -> list[Record]:
        other = make(kernel=OLD)  # of no campaign
        return [other, *(each for each in self.kept if each.kernel in kernels)]

    def _slot(self) -> Slot:
        return Slot(self.submitted[0].id, len(self.kept))

    def _campaign(self) -> CampaignStatus:
        state = CampaignState.INCOMPLETE if self.missing else CampaignState.COMPLETE
        if self.cancelled:
            state = CampaignState.CANCELLED
        return fleets.campaign(
            id=self.submitted[0].id,
            state=CampaignState.RUNNING if self.coming else state,
            boots=2,
            done=len(self.kept),
            trials=len(self.kept),
            lost=0,
            running=len(self.coming),
            left_s=None,
            missing=self.missing,
        )


class Watcher:
    """Takes down what it is told to show."""

    def __init__(self, *, needs_fleet: bool = False) -> None:
        self.needs_fleet = needs_fleet
        self.shown: list[object] = []

    def begun(self, campaign: CampaignStatus) -> None:
        self.shown.append(campaign.done)

    def fleet(self, status: FleetStatus) -> None:
        self.shown.append([each.state for each in status.hosts])

    def news(self, progress: Progress) -> None:
        self.shown.append([record.from_line(line).seq for line in progress.lines])

    def broken(self, error: FleetUnreachable) -> None:
        self.shown.append(error)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower tries again at once."""
    monkeypatch.setattr(following, "RETRY_S", 0.0)


def test_a_campaign_is_followed_until_it_is_complete() -> None:
    coordinator, watcher = Coordinator([boot(0), boot(1)]), Watcher()
    ended, made = asyncio.run(following.follow(coordinator.connect, PLAN, watcher))
    assert watcher.shown == [0, [1], [2]]
    assert ended.state is CampaignState.COMPLETE
    assert [each.seq for each in made] == [1, 2]
    assert coordinator.submitted == [PLAN]


def test_what_hosts_do_is_shown_before_there_is_news() -> None:
    coordinator, watcher = Coordinator([boot(0)]), Watcher(needs_fleet=True)
    asyncio.run(following.follow(coordinator.connect, PLAN, watcher))
    assert watcher.shown == [0, [HostState.READY], [1]]


def test_a_connection_that_breaks_while_hosts_are_shown_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever of the two questions to the coordinator fails."""
    monkeypatch.setattr(following, "RETRY_S", 0.0)

    class Breaking(Coordinator):
        async def status(self) -> FleetStatus:
            if self.connections == 1:
                raise BROKEN
            return await super().status()

    coordinator, watcher = Breaking([boot(0)]), Watcher(needs_fleet=True)
    ended, _ = asyncio.run(following.follow(coordinator.connect, PLAN, watcher))
    assert ended.state is CampaignState.COMPLETE
    assert watcher.shown[:2] == [0, BROKEN]


@pytest.mark.usefixtures("impatient")
def test_a_campaign_is_followed_again_after_the_connection_was_broken() -> None:
    """Without submitting it again, because another user may have cancelled it meanwhile."""
    coordinator, watcher = Coordinator([boot(0), boot(1)], breaks=3), Watcher()
    ended, made = asyncio.run(following.follow(coordinator.connect, PLAN, watcher))
    assert watcher.shown == [0, [1], BROKEN, [2]]
    assert ended.state is CampaignState.COMPLETE
    assert len(made) == 2
    assert coordinator.submitted == [PLAN]
    assert coordinator.connections == 4


@pytest.mark.usefixtures("impatient")
def test_a_follower_gives_up_when_its_patience_ends() -> None:
    coordinator = Coordinator([boot(0), boot(1)], breaks=10**9)
    plan = dataclasses.replace(PLAN, patience_s=0.01)
    with pytest.raises(FleetUnreachable):
        asyncio.run(following.follow(coordinator.connect, plan, Watcher()))


def test_a_coordinator_that_cannot_be_reached_at_first_is_not_waited_for() -> None:
    coordinator = Coordinator([])

    async def unreachable(plan: Plan) -> CampaignStatus:
        raise BROKEN

    coordinator.submit = unreachable  # type: ignore[method-assign]
    with pytest.raises(FleetUnreachable):
        asyncio.run(following.follow(coordinator.connect, PLAN, Watcher()))
    assert coordinator.connections == 1


# The command.

Use = Callable[[Coordinator], Coordinator]


@pytest.fixture
def use(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Makes commands ask this coordinator."""
    Ledger(settings.ledger).add(describe(OLD))
    monkeypatch.setenv("KICKBENCH_FLEET", "lab1")

    def patch(coordinator: Coordinator) -> Coordinator:
        monkeypatch.setattr(campaigns, "connected", coordinator.connect)
        return coordinator

    return patch


COMMAND = ["fleet", "campaign", OLD.release, "--boots", "2", "--scenario", "blackhole", "-n", "1"]


def test_the_plan_has_what_the_options_say(use: Use) -> None:
    coordinator = use(Coordinator([boot(0), boot(1)]))
    options = ["--deadline", "3", "--patience", "20", "--name", "second", "--guest-work", "idle"]
    done = CliRunner().invoke(main, [*COMMAND, *options, "--image", "linux"])
    assert done.exit_code == 0, done.output
    (plan,) = coordinator.submitted
    assert (plan.kind, plan.kernels, plan.boots, plan.hosts) == (
        Kind.LAB, (OLD,), 2, ("somewhere",),
    )  # fmt: skip
    assert plan.settings == {
        "KICKBENCH_DEADLINE": "3",
        "KICKBENCH_GUEST_KERNEL": "debian/6.12",
        "KICKBENCH_STAGING": "30",
    }
    assert (plan.patience_s, plan.name) == (20.0, "second")
    (case,) = plan.cases
    assert (case.scenario, case.shape.image, case.shape.work) == (
        ScenarioName.BLACKHOLE, "linux", "idle",
    )  # fmt: skip


def test_anywhere_binds_the_campaign_to_no_host(use: Use) -> None:
    coordinator = use(Coordinator([boot(0), boot(1)]))
    assert CliRunner().invoke(main, [*COMMAND, "--anywhere"]).exit_code == 0
    assert coordinator.submitted[0].hosts == ()


@pytest.mark.parametrize(("options", "boots"), [([], 1), (["--reboot"], 6)])
def test_a_host_is_asked_for_several_boots_only_if_it_may_be_rebooted(
    use: Use, options: list[str], boots: int
) -> None:
    host = fleets.host(fleets.facts("somewhere", OLD, reboots=True))
    coordinator = use(Coordinator([boot(0)], fleet=fleets.fleet(host)))
    words = ["fleet", "campaign", "booted", "--work", "host", *options]
    assert CliRunner().invoke(main, words).exit_code == 0
    (plan,) = coordinator.submitted
    assert (plan.boots, plan.kind, plan.kernels) == (boots, Kind.HOST, (OLD,))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--work", "host", "--anywhere"], "--anywhere applies only to --work lab"),
        (["--anywhere", "--host", "somewhere"], "either --host or --anywhere"),
        (["--reboot"], "Labs need no reboot"),
        (["--work", "host", "--reboot"], "somewhere may not be rebooted"),
    ],
)
def test_options_that_contradict_one_another_are_refused(
    use: Use, options: list[str], sentence: str
) -> None:
    coordinator = use(Coordinator([]))
    done = CliRunner().invoke(main, [*COMMAND, *options])
    assert (done.exit_code, coordinator.submitted) == (UsageError.exit_status, [])
    assert sentence in done.stderr


def test_without_an_address_the_command_names_what_to_give() -> None:
    for words in (COMMAND, ["fleet", "status"], ["fleet", "drain", "a"], ["fleet", "cancel", "a"]):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == UsageError.exit_status
        assert "give --fleet, or set KICKBENCH_FLEET" in done.stderr


def test_a_file_gets_a_line_per_trial_and_a_table_per_host(use: Use) -> None:
    use(Coordinator([boot(0), boot(1)]))
    done = CliRunner().invoke(main, COMMAND)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert [line.partition(",")[0] for line in lines[:2]] == [
        f"somewhere {OLD.release} #{number} stop in blackhole: returned" for number in (1, 2)
    ]
    assert [line for line in lines if line.endswith("native (kvm) on somewhere")]
    assert [line for line in lines if "2 of 2 returned" in line]
    begun, *_, ended = done.stderr.splitlines()
    assert begun.endswith("on somewhere; recorded: 0 of 2 boots")
    assert ended == "complete, 2 of 2 boots, 2 trials, 0 lost"


def test_boots_that_are_missing_make_the_campaign_incomplete(use: Use) -> None:
    use(Coordinator([boot(0)], missing=("somewhere is away.", "A boot was given up.")))
    done = CliRunner().invoke(main, COMMAND)
    assert done.exit_code == CampaignIncomplete.exit_status
    assert "ended with 1 of 2 boots" in done.stderr
    assert done.stderr.endswith("somewhere is away. A boot was given up.\n")
    assert "1 of 1 returned" in done.stdout


def test_a_campaign_that_someone_cancels_is_incomplete(use: Use) -> None:
    coordinator = use(Coordinator([boot(0)]))
    coordinator.cancelled = True
    done = CliRunner().invoke(main, COMMAND)
    assert done.exit_code == CampaignIncomplete.exit_status
    assert "was cancelled with 1 of 2 boots" in done.stderr


@pytest.mark.parametrize("missing", [(), ("somewhere is away.",)])
def test_damaged_memory_is_worse_than_missing_boots(use: Use, missing: tuple[str, ...]) -> None:
    damage = Recovery(1, 2, "damaged", damage="Page 7.")
    use(Coordinator([boot(0, recovery=damage)], missing=missing))
    done = CliRunner().invoke(main, COMMAND)
    assert done.exit_code == MemoryDamaged.exit_status
    assert "MEMORY DAMAGED" in done.stderr
    assert all(reason in done.stderr for reason in missing)


def test_json_is_one_object_and_nothing_else(use: Use) -> None:
    coordinator = use(Coordinator([boot(0)], missing=("somewhere is away.",)))
    done = CliRunner().invoke(main, [*COMMAND, "--json"])
    assert done.exit_code == CampaignIncomplete.exit_status
    found = json.loads(done.stdout)
    assert found["id"] == coordinator.submitted[0].id
    assert (found["state"], found["done"], found["boots"]) == ("incomplete", 1, 2)
    assert (found["hosts"], found["missing"]) == (["somewhere"], ["somewhere is away."])
    assert [each["release"] for each in found["kernels"]] == [OLD.release]
    assert [each["slot"]["number"] for each in found["records"]] == [0]


@pytest.mark.usefixtures("impatient")
def test_a_command_that_loses_the_coordinator_says_how_to_go_on(use: Use) -> None:
    coordinator = use(Coordinator([boot(0), boot(1)], breaks=10**9))
    done = CliRunner().invoke(main, [*COMMAND, "--patience", "0.01"])
    assert done.exit_code == FleetUnreachable.exit_status
    lines = done.stderr.splitlines()
    assert [line for line in lines if "trying for 0 s to follow it again" in line]
    assert lines[-1] == (
        f"kickbench: Campaign {coordinator.submitted[0].id} goes on in the fleet. Repeat the "
        "command with --host somewhere to follow it; `kickbench fleet cancel "
        f"{coordinator.submitted[0].id}` ends it."
    )


def test_ctrl_c_leaves_the_campaign_running(use: Use) -> None:
    class Interrupting(Coordinator):
        async def follow(self, id: str, seen: int) -> Progress:  # noqa: A002
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
            raise AssertionError

    coordinator = use(Interrupting([boot(0)]))
    done = CliRunner().invoke(main, [*COMMAND, "--host", "somewhere"])
    assert done.exit_code == 128 + signal.SIGINT
    campaign = coordinator.submitted[0].id
    assert done.stderr.splitlines()[-1] == (
        f"kickbench: Campaign {campaign} goes on in the fleet. Repeat the command to follow it; "
        f"`kickbench fleet cancel {campaign}` ends it."
    )


def test_drain_and_cancel_pass_on_what_they_are_given(
    use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    class Asked(Coordinator):
        async def drain(self, host: str, *, undo: bool) -> None:
            asked.append((host, undo))

        async def cancel(self, id: str) -> None:  # noqa: A002
            asked.append((id,))

    use(Asked([]))
    outputs = [
        CliRunner().invoke(main, ["fleet", *words]).stdout
        for words in (["drain", "alpha"], ["drain", "alpha", "--undo"], ["cancel", "0123"])
    ]
    assert asked == [("alpha", False), ("alpha", True), ("0123",)]
    assert outputs == [
        "alpha gets no new work; it finishes what it is making.\n",
        "alpha gets work again.\n",
        "Campaign 0123 is cancelled; its records are kept.\n",
    ]


def test_status_is_printed_in_lines_or_as_json(use: Use) -> None:
    use(Coordinator([], fleet=fleets.fleet(fleets.host("alpha"))))
    lines = CliRunner().invoke(main, ["fleet", "status"]).stdout.splitlines()
    assert lines[-1].startswith("host alpha: ready")
    found = json.loads(CliRunner().invoke(main, ["fleet", "status", "--json"]).stdout)
    assert [each["facts"]["name"] for each in found["hosts"]] == ["alpha"]


def test_watching_needs_a_terminal(use: Use) -> None:
    use(Coordinator([]))
    done = CliRunner().invoke(main, ["fleet", "status", "--watch"])
    assert done.exit_code == UsageError.exit_status
    assert "needs a terminal" in done.stderr
