# SPDX-License-Identifier: BSD-3-Clause
"""Guests that libvirt runs, for real: every request, recovery, and daemons that die."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench_lib.deadline import Deadline
from bench_lib.errors import HostError, LibvirtMissing
from bench_lib.libvirt import daemon
from bench_lib.ownership import Run
from bench_lib.record import (
    HUNG,
    Entry,
    ManagerName,
    Outcome,
    Record,
    RequestName,
    ScenarioName,
)
from bench_lib.settings import Settings
from bench_lib.trial import leftovers
from bench_lib.trial.batch import NativeRunner
from bench_lib.trial.case import AT_SWITCH, Case
from bench_lib.trial.timeline import Timeline
from tests.conftest import HANG_S
from tests.host.conftest import KICKBENCH, Command, all_that_is_left, run_driver

pytestmark = pytest.mark.usefixtures("clean_host", "runtime")

DAEMON = "libvirtd"


def trial(
    scenario: ScenarioName,
    request: RequestName,
    *,
    recover: bool = False,
    then: RequestName | None = None,
) -> Record:
    """Run one trial with a guest that libvirt runs, and return its record."""
    case = Case(scenario, request, recover=recover, manager=ManagerName.LIBVIRT, then=then)
    (made,) = NativeRunner(Settings.from_environment()).run([case], lambda record: None)
    return made


def daemons() -> list[int]:
    """The libvirtd processes below this process."""
    ours = " ".join(each.read_text() for each in Path("/proc/self/task").glob("*/children"))
    theirs = " ".join(Path(f"/proc/{pid}/task/{pid}/children").read_text() for pid in ours.split())
    return [
        int(pid)
        for pid in theirs.split()
        if Path(f"/proc/{pid}/comm").read_text().strip() == DAEMON
    ]


@pytest.mark.parametrize("scenario", [ScenarioName.IDLE, ScenarioName.BLACKHOLE, *AT_SWITCH])
def test_destroy_ends_a_guest_and_tells_when_qemu_was_dead(scenario: ScenarioName) -> None:
    made = trial(scenario, RequestName.VIRT_DESTROY)
    assert made.manager is ManagerName.LIBVIRT
    assert made.outcome is Outcome.RETURNED, made.reason
    assert made.latency_ns is not None
    assert made.ended_ns is not None
    assert 0 < made.ended_ns < made.latency_ns
    assert made.manager_version is not None
    assert made.manager_version.startswith("libvirt ")
    if scenario is not ScenarioName.IDLE:
        assert {each.entry for each in made.evidence.vcpus} == {Entry.GUP}


@pytest.mark.parametrize(
    "scenario, request_, outcome",
    [
        (ScenarioName.IDLE, RequestName.VIRT_SUSPEND, Outcome.RETURNED),
        (ScenarioName.IDLE, RequestName.VIRT_REBOOT_DAEMON, Outcome.RETURNED),
        (ScenarioName.IDLE, RequestName.VIRT_ABORT, Outcome.REFUSED),
        (ScenarioName.BLACKHOLE, RequestName.VIRT_ABORT, Outcome.RETURNED),
        (ScenarioName.BLACKHOLE, RequestName.VIRT_DOMSTATE, Outcome.RETURNED),
        (ScenarioName.BLACKHOLE, RequestName.VIRT_DESTROY_GRACEFUL, Outcome.RETURNED),
        # Through the second monitor, and by QEMU's pid.
        (ScenarioName.IDLE, RequestName.GDBSTUB_BREAK, Outcome.RETURNED),
        (ScenarioName.IDLE, RequestName.SIGTERM, Outcome.RETURNED),
        (ScenarioName.BLACKHOLE, RequestName.QUERY_STATUS, Outcome.RETURNED),
        (ScenarioName.BLACKHOLE, RequestName.SIGKILL, Outcome.RETURNED),
    ],
)
def test_requests_that_do_not_depend_on_the_kernel(
    scenario: ScenarioName, request_: RequestName, outcome: Outcome
) -> None:
    made = trial(scenario, request_)
    assert made.outcome is outcome, made.reason
    assert (made.reason is not None) == (outcome is Outcome.REFUSED)


def test_a_call_that_is_given_up_before_libvirt_refuses_it_is_a_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """libvirt refuses it after 30 s, because the migration has the guest's lock."""
    monkeypatch.setenv("KICKBENCH_DEADLINE", "1")
    made = trial(ScenarioName.BLACKHOLE, RequestName.VIRT_SUSPEND)
    assert made.outcome in HUNG, made.reason
    assert made.reason is None


def test_libvirt_refuses_to_suspend_a_stuck_guest_and_names_the_holder_of_the_lock() -> None:
    made = trial(ScenarioName.BLACKHOLE, RequestName.VIRT_SUSPEND)
    assert made.outcome is Outcome.REFUSED, made.reason
    assert made.reason is not None
    assert "VIR_ERR_OPERATION_TIMEOUT" in made.reason
    assert "held by monitor=remoteDispatchDomainMigrateFinish3Params" in made.reason
    assert made.latency_ns is not None
    assert made.latency_ns > 29e9


@pytest.mark.parametrize("scenario", [ScenarioName.BLACKHOLE, ScenarioName.PAUSED])
def test_libvirt_resumes_the_migration_and_the_memory_is_whole(scenario: ScenarioName) -> None:
    made = trial(scenario, RequestName.QUERY_STATUS, recover=True)
    assert made.outcome is Outcome.RETURNED, made.reason
    assert made.recovery is not None
    assert made.recovery.failure is None
    assert made.recovery.memory == "whole"


@pytest.mark.parametrize(
    "stage, request_",
    [
        *((each, RequestName.VIRT_DESTROY) for each in ("guest-up", "postcopy", "outage")),
        ("request", RequestName.VIRT_SUSPEND),
        ("request", RequestName.VIRT_DESTROY),
        ("request", RequestName.VIRT_REBOOT_DAEMON),
    ],
)
def test_a_libvirtd_that_dies_in_any_stage_is_a_lost_trial(
    monkeypatch: pytest.MonkeyPatch, stage: str, request_: RequestName
) -> None:
    monkeypatch.setenv("KICKBENCH_STAGING", "8")
    original = Timeline.stage

    @contextmanager
    def killed(timeline: Timeline, name: str) -> Iterator[None]:
        with original(timeline, name):
            if name == stage:
                victims = daemons()
                assert len(victims) == 2
                for pid in victims:
                    os.kill(pid, signal.SIGKILL)
                while any(Path(f"/proc/{pid}").exists() for pid in victims):
                    time.sleep(0.001)
            yield

    monkeypatch.setattr(Timeline, "stage", killed)
    made = trial(ScenarioName.BLACKHOLE, request_)
    assert made.outcome is Outcome.LOST
    assert made.reason is not None
    assert "libvirt" in made.reason


def test_a_libvirtd_that_does_not_start_is_a_lost_trial_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(daemon.CONFIGURATION, "qemu.conf", 'user = "nobody-of-this-name"\n')
    made = trial(ScenarioName.IDLE, RequestName.VIRT_DOMSTATE)
    assert made.outcome is Outcome.LOST
    assert made.reason is not None
    assert "nobody-of-this-name" in made.reason


def test_a_libvirtd_that_exits_is_a_lost_trial_with_its_exit_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / DAEMON
    program.write_text("#!/bin/sh\n[ $1 = --version ] || exit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    made = trial(ScenarioName.IDLE, RequestName.VIRT_DOMSTATE)
    assert made.outcome is Outcome.LOST
    assert made.reason == "libvirtd exited with status 3 at its start."


def test_a_libvirtd_that_has_probed_qemu_can_be_restarted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The exit status of the probed QEMU is not the exit status of libvirtd."""
    monkeypatch.setenv("KICKBENCH_CACHE", str(tmp_path / "cache"))
    made = trial(ScenarioName.IDLE, RequestName.VIRT_REBOOT_DAEMON)
    assert made.outcome is Outcome.RETURNED, made.reason


def test_without_a_cache_trials_are_refused(kickbench: Command, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    done = kickbench(
        *("trial", "--manager", "libvirt", "--scenario", "idle", "--request", "virt-domstate"),
        env={**os.environ, "KICKBENCH_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == HostError.exit_status
    assert "cannot be written (Not a directory); set KICKBENCH_CACHE" in done.stderr


@pytest.mark.parametrize("stage", ["start", "guest-up", "postcopy", "request", "recovery"])
def test_after_a_kill_in_any_stage_clean_leaves_nothing(runtime: Path, stage: str) -> None:
    done = run_driver(
        "driver.py", "blackhole", stage, "killed", "0", "--manager", "libvirt", "--deadline", "5"
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert leftovers.end(runtime).folders
    assert not all_that_is_left(runtime)


def test_without_libvirt_trials_are_refused(kickbench: Command, tmp_path: Path) -> None:
    """On a PATH that lacks libvirtd alone."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for path in os.environ["PATH"].split(os.pathsep):
        for program in Path(path).glob("*"):
            link = folder / program.name
            if program.name != DAEMON and not link.exists():
                link.symlink_to(program)
    done = kickbench(
        *("trial", "--manager", "libvirt", "--scenario", "idle", "--request", "virt-domstate"),
        env={**os.environ, "PATH": str(folder)},
    )
    assert done.returncode == LibvirtMissing.exit_status
    assert "libvirtd is not installed; `kickbench set-up --libvirt` installs it." in done.stderr


def test_a_libvirtd_of_the_host_is_not_touched(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial runs in the namespaces of another libvirtd, which are a host's to it."""
    with daemon.started(run, "host", None, tmp_path / "cache") as made:
        asyncio.run(made.up(Deadline.after(HANG_S)))
        inside = ["nsenter", "--target", str(made.child.pid), "--mount", "--uts", "--net", "--"]

        def virsh(*words: str) -> str:
            return subprocess.run(
                [*inside, "virsh", "-c", "qemu:///system", *words],
                capture_output=True,
                text=True,
                check=True,
                timeout=HANG_S,
            ).stdout

        # A link there, to a folder in which nothing can be mounted from in here.
        subprocess.run([*inside, "sh", "-ec", "rm -f /run/netns; mkdir /run/netns"], check=True)
        domain = tmp_path / "domain.xml"
        domain.write_text(
            "<domain type='qemu'><name>theirs</name><memory unit='MiB'>16</memory>"
            "<os><type>hvm</type></os><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>"
            "</devices></domain>"
        )
        virsh("create", str(domain))
        before = sorted(made.path(Path("/run/libvirt")).iterdir())
        done = subprocess.run(
            [
                *inside,
                *(KICKBENCH, "trial", "--manager", "libvirt", "--scenario", "blackhole"),
                *("--request", "virt-destroy"),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=HANG_S,
            env={**os.environ, "KICKBENCH_RUNTIME": str(tmp_path / "inner")},
        )
        assert "returned" in done.stdout, done.stderr
        assert virsh("domstate", "theirs").strip() == "running"
        assert sorted(made.path(Path("/run/libvirt")).iterdir()) == before
        virsh("destroy", "theirs")


def test_a_guest_can_be_destroyed_while_another_call_waits_for_its_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KICKBENCH_DEADLINE", "2")
    made = trial(ScenarioName.BLACKHOLE, RequestName.VIRT_SUSPEND, then=RequestName.VIRT_DESTROY)
    assert made.outcome in HUNG, made.reason
    assert made.then is not None
    assert made.then.request is RequestName.VIRT_DESTROY
    assert made.then.outcome is Outcome.RETURNED, made.then.reason
    assert made.then.latency_ns is not None
    # The call that waited fails when its guest is gone.
    assert made.late_ns is not None


def test_a_second_call_goes_to_the_libvirtd_that_was_started_again() -> None:
    made = trial(ScenarioName.IDLE, RequestName.VIRT_REBOOT_DAEMON, then=RequestName.VIRT_SUSPEND)
    assert made.outcome is Outcome.RETURNED, made.reason
    assert made.then is not None
    assert made.then.outcome is Outcome.RETURNED, made.then.reason


def test_a_second_call_to_a_libvirtd_that_does_not_end_is_lost_and_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After SIGTERM libvirtd has closed its connections, and waits 30 s for the migration."""
    monkeypatch.setenv("KICKBENCH_DEADLINE", "2")
    made = trial(
        ScenarioName.BLACKHOLE, RequestName.VIRT_REBOOT_DAEMON, then=RequestName.VIRT_DESTROY
    )
    assert made.outcome in HUNG, made.reason
    assert made.then is not None
    assert made.then.outcome is Outcome.LOST
    assert made.then.reason is not None
    assert "has no connection to libvirtd" in made.then.reason


def test_a_guest_is_recovered_although_libvirtd_has_not_ended_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KICKBENCH_DEADLINE", "2")
    made = trial(ScenarioName.BLACKHOLE, RequestName.VIRT_REBOOT_DAEMON, recover=True)
    assert made.outcome in HUNG, made.reason
    assert made.recovery is not None
    assert made.recovery.memory == "whole", made.recovery.failure


def test_a_libvirtd_that_blocks_before_the_call_is_part_of_the_latency(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lookup of the domain waits, and the call after it does not."""
    original = Timeline.stage
    stopped_s = 0.5

    @contextmanager
    def blocked(timeline: Timeline, name: str) -> Iterator[None]:
        with original(timeline, name):
            if name == "request":
                (pid,) = daemons()
                os.kill(pid, signal.SIGSTOP)
                threading.Timer(stopped_s, os.kill, (pid, signal.SIGCONT)).start()
            yield

    monkeypatch.setattr(Timeline, "stage", blocked)
    made = trial(ScenarioName.IDLE, RequestName.VIRT_DOMSTATE)
    assert made.outcome is Outcome.RETURNED, made.reason
    assert made.latency_ns is not None
    assert made.latency_ns > stopped_s * 0.9e9


def test_when_the_parent_of_libvirtd_dies_the_trial_is_lost_and_qemu_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It reports the exit status of QEMU, which is unknown then."""
    original = Timeline.stage

    @contextmanager
    def killed(timeline: Timeline, name: str) -> Iterator[None]:
        with original(timeline, name):
            if name == "request":
                for pid in daemons():
                    (line,) = re.findall(r"PPid:\t(\d+)", Path(f"/proc/{pid}/status").read_text())
                    os.kill(int(line), signal.SIGKILL)
            yield

    monkeypatch.setattr(Timeline, "stage", killed)
    made = trial(ScenarioName.BLACKHOLE, RequestName.VIRT_DESTROY)
    assert made.outcome is Outcome.LOST
    assert not made.survivors


def test_a_libvirtd_that_dies_after_its_restart_is_a_lost_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = daemon.Daemon.restarted

    async def killed(made: daemon.Daemon, deadline: Deadline) -> None:
        await original(made, deadline)
        made.signal(signal.SIGKILL)

    monkeypatch.setattr(daemon.Daemon, "restarted", killed)
    made = trial(ScenarioName.IDLE, RequestName.VIRT_REBOOT_DAEMON)
    assert made.outcome is Outcome.LOST
    assert made.reason is not None
    assert "SIGKILL" in made.reason
