# SPDX-License-Identifier: BSD-3-Clause
"""asv's environment `kernel-fleet`: which host of the fleet it means, and when it refuses a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asv import util
from asv.console import log

from bench_lib.asv_bridge import kernel_fleet, probe_suite, suite
from bench_lib.asv_bridge.environment import KernelEnvironment
from bench_lib.asv_bridge.kernel_fleet import KernelFleet, check, chosen
from bench_lib.asv_bridge.kernel_lab import KernelLab
from bench_lib.asv_bridge.progress import Progress
from bench_lib.errors import FleetRefused, FleetUnreachable, UnknownHost, UnknownKernel
from bench_lib.fleet import campaigns
from bench_lib.fleet.status import CampaignState, CampaignStatus, HostState
from bench_lib.fleet.work import Kind
from bench_lib.kernel.ledger import Ledger, describe
from bench_lib.record import Kernel, RequestName
from bench_lib.settings import Settings
from bench_lib.trial import preflight
from tests.fake_fleet import FakeFleet, connecting, host
from tests.make import record as make

KERNEL = Kernel("6.12.94+deb12-amd64", "#1 SMP Debian 6.12.94-1 (2026-06-20)")


class Stop(suite.RequestSuite):
    request = RequestName.STOP
    params = ("idle", "blackhole")


@pytest.fixture
def fleet(history: Path, monkeypatch: pytest.MonkeyPatch) -> FakeFleet:
    made = FakeFleet(host("host-a"), host("host-b", HostState.AWAY))
    monkeypatch.setattr(campaigns, "connected", connecting(made))
    monkeypatch.chdir(history)
    return made


def environment(kind: type[KernelEnvironment] = KernelFleet) -> KernelEnvironment:
    conf = SimpleNamespace(
        env_dir=".asv/env",
        repo_subdir="",
        install_timeout=1,
        default_benchmark_timeout=1,
        project="kickbench",
        build_cache_size=0,
        build_command=None,
        install_command=None,
        uninstall_command=None,
        results_dir=".asv/results",
    )
    return kind(conf, "3", {}, {})


def test_the_only_host_that_is_there_is_meant() -> None:
    there = [host("a"), host("b", HostState.AWAY), host("c", HostState.DRAINED)]
    assert chosen(there, None).facts.name == "a"
    assert chosen([host("a", kinds=(Kind.HOST,)), host("b")], None).facts.name == "b"


def test_of_several_hosts_one_has_to_be_named() -> None:
    there = [host("a"), host("b"), host("c", HostState.AWAY)]
    with pytest.raises(UnknownHost, match=r"2 hosts .* \(a, b\), .* name it in KICKBENCH_FLEET_H"):
        chosen(there, None)
    assert chosen(there, "b").facts.name == "b"
    with pytest.raises(UnknownHost, match=r"no host d; its hosts are: a, b, c"):
        chosen(there, "d")
    with pytest.raises(UnknownHost, match="lab work now: c is away"):
        chosen(there[2:], None)


def test_each_host_and_accelerator_has_a_series_of_its_own(fleet: FakeFleet) -> None:
    found = environment()
    assert found.name == found.requirements["environment"] == "kernel-fleet-host-a-kvm"


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (
            host("a", HostState.SET_ASIDE, "its disk is full"),
            r"a is set aside \(its disk is full\)",
        ),
        (host("a", HostState.DRAINED), "a is drained"),
        (host("a", HostState.AWAY), "a is away"),
        (host("a", kinds=(Kind.HOST,)), "a offers no lab work"),
    ],
)
def test_a_host_that_makes_no_trials_now_is_refused(found: Any, why: str) -> None:
    with pytest.raises(FleetRefused, match=why):
        check(found, "kvm")


def test_a_host_whose_labs_change_is_refused() -> None:
    with pytest.raises(FleetRefused, match="had tcg when asv began, and have kvm now"):
        check(host("a"), "tcg")


def test_a_run_is_refused_before_it_starts(
    fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = environment()
    repo: Any = None
    used.install_project(None, repo, "1" * 40)
    assert used.benchmark_variables() == {
        "KICKBENCH_KERNEL": "1" * 40,
        "KICKBENCH_FLEET_HOST": "host-a",
    }
    fleet.hosts["host-a"] = host("host-a", HostState.SET_ASIDE, "its disk is full")
    with pytest.raises(SystemExit) as refused:
        used.install_project(None, repo, "2" * 40)
    assert refused.value.code == FleetRefused.exit_status

    def unreachable(settings: Settings) -> None:
        raise FleetUnreachable("The coordinator cannot be reached.")

    monkeypatch.setattr(kernel_fleet, "hosts", unreachable)
    with pytest.raises(SystemExit) as refused:
        environment()
    assert refused.value.code == FleetUnreachable.exit_status


def test_only_this_environment_names_a_host_to_its_benchmarks(
    fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may have named a host, and measure on this machine nevertheless."""
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(util, "check_output", lambda command, env, **_: seen.append(env))
    monkeypatch.setenv("KICKBENCH_FLEET_HOST", "host-a")
    environment().run(["-c", ""])
    environment(KernelLab).run(["-c", ""])
    assert [each["KICKBENCH_FLEET_HOST"] for each in seen] == ["host-a", ""]


def test_an_interrupted_run_says_what_is_kept(
    fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(command: list[str], **_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(util, "check_output", interrupted)
    said: list[str] = []
    monkeypatch.setattr(log, "error", said.append)
    with pytest.raises(SystemExit) as ended:
        environment().run(["-c", ""])
    assert ended.value.code == 130
    (sentence,) = said
    assert "cancels the last one" in sentence


@pytest.fixture
def on_host(fleet: FakeFleet, history: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The variables of a benchmark process."""
    ledger = Ledger(Settings.from_environment().ledger)
    ledger.add(describe(KERNEL))
    monkeypatch.setenv("KICKBENCH_KERNEL", describe(KERNEL).id)
    monkeypatch.setenv("KICKBENCH_FLEET_HOST", "host-a")
    monkeypatch.setenv("KICKBENCH_TRIALS", "2")
    return monkeypatch


def test_a_benchmark_is_one_boot_on_the_host(fleet: FakeFleet, on_host: pytest.MonkeyPatch) -> None:
    # What this host lacks does not matter.
    on_host.setattr(preflight, "lacking", lambda *_, lab: "This host has no QEMU.")
    records = Stop().measure()
    assert {value: len(group) for value, group in records.items()} == {"idle": 2, "blackhole": 2}
    made = [each for group in records.values() for each in group]
    assert {(each.host.machine, each.kernel) for each in made} == {("host-a", KERNEL)}
    assert len({each.boot_id for each in made}) == 1
    Stop().setup(records, "idle")


def test_progress_shows_what_the_boot_is_doing_once_and_no_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """asv needs output again and again, and the terminal does not."""
    terminal = tmp_path / "terminal"
    terminal.touch()
    progress = Progress(terminal, 2)
    for running in (0, 0, 1, 1, 0):
        progress.waiting(status(running))
    progress.kept(make())
    progress.close()
    lines = [line.strip() for line in terminal.read_text().splitlines() if line]
    assert lines[:3] == [
        "the boot of campaign ab waits for its turn",
        "the boot of campaign ab is being made",
        "the boot of campaign ab waits for its turn",
    ]
    assert lines[3].startswith("1/2 #1 stop in blackhole: returned")
    assert " left" not in lines[3]
    assert len(capsys.readouterr().out.splitlines()) == 6


def status(running: int) -> CampaignStatus:
    return CampaignStatus("ab", "", CampaignState.RUNNING, 1, 0, 0, 0, running, None)


def test_what_the_host_could_not_try_is_skipped(
    fleet: FakeFleet, on_host: pytest.MonkeyPatch
) -> None:
    records = Stop().measure()
    untried = [
        dataclasses.replace(each, tried=False, reason="FUSE is not there.")
        for each in records["idle"]
    ]
    with pytest.raises(NotImplementedError, match="FUSE is not there"):
        Stop().setup({**records, "idle": untried}, "idle")


def test_a_kernel_that_the_ledger_lacks_is_refused(on_host: pytest.MonkeyPatch) -> None:
    on_host.setenv("KICKBENCH_KERNEL", "1" * 40)
    with pytest.raises(UnknownKernel, match=f"has no build {'1' * 40}"):
        Stop().measure()


def test_the_probe_is_skipped(on_host: pytest.MonkeyPatch) -> None:
    probe = probe_suite.ProbeSuite()
    results = probe.measure()
    assert results == {}
    with pytest.raises(NotImplementedError, match="do not run the probe"):
        probe.setup(results, probe.params[0])
