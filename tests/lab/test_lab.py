# SPDX-License-Identifier: BSD-3-Clause
"""Other kernels, booted in labs. An emulated lab takes 20 s until the end of its first trial."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from bench_lib import ownership, process, record
from bench_lib.cli.kernels import bootable
from bench_lib.deadline import Deadline
from bench_lib.lab import qemu, trials
from bench_lib.lab.trials import BOOTS_AT_MOST
from bench_lib.record import (
    Entry,
    ManagerName,
    Outcome,
    RequestName,
    Role,
    ScenarioName,
    Shape,
    WaitsFor,
)
from bench_lib.settings import Settings
from bench_lib.trial import leftovers
from bench_lib.trial.case import Case
from bench_lib.units import NS_PER_S
from tests.host.conftest import GUEST, KICKBENCH, Command
from tests.lab.conftest import HANG_S

pytestmark = pytest.mark.timeout(HANG_S + 300)

LOST = 62
"""The exit status of a command whose lab has died."""

RECORDS = Path(".asv/records.jsonl")

TRIALS = 4
"""Few emulated trials are lost by themselves, but more of them are beside other load."""


def steadily(kickbench: Command, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command again if its lab dies, as an emulated lab may do by itself.

    `kickbench trial` boots a new lab itself. Other commands do not, because kickbench cannot know
    whether they may be run twice.
    """
    for _ in range(BOOTS_AT_MOST):
        done = kickbench(*arguments)
        if done.returncode != LOST or qemu.accelerator() != "tcg":
            break
    return done


HANGS_S, ANSWERS_S = "10", "300"
"""Deadlines in seconds: short for requests that hang, and long for those that are answered."""


@pytest.mark.parametrize(
    "kernel, outcome, state, deadline",
    [
        ("debian/6.1", Outcome.ASLEEP, "D", HANGS_S),
        ("debian/6.12", Outcome.RETURNED, "S", ANSWERS_S),
    ],
)
def test_stop_hangs_without_the_flag_and_returns_with_it(
    kickbench: Command, kernel: str, outcome: Outcome, state: str, deadline: str
) -> None:
    done = kickbench(
        "trial", "--kernel", kernel, "--scenario", "blackhole", "--request", "stop",
        "-n", str(TRIALS), "--deadline", deadline, "--json",
    )  # fmt: skip
    trials = json.loads(done.stdout)
    assert len(trials) == TRIALS, done.stderr
    # A trial that is lost under emulation shows nothing about the kernel.
    scored = [made for made in trials if made["outcome"] != Outcome.LOST]
    assert scored, done.stderr
    assert done.returncode == (0 if len(scored) == TRIALS else 4)
    for made in scored:
        assert made["outcome"] == outcome
        assert made["kernel"]["release"].startswith(kernel.removeprefix("debian/"))
        assert made["host"]["kind"] == "lab"
        assert made["host"]["accelerator"] in {"tcg", "kvm"}
        (before,) = [each for each in made["evidence"]["before"] if each["role"] == Role.VCPU]
        assert (before["state"], before["wchan"]) == (state, "handle_userfault")
        assert before["entry"] == Entry.GUP
        assert (made["latency_ns"] is None) == (outcome is Outcome.ASLEEP)
    assert json.loads(Path("kernels.json").read_text())["kernels"]


def test_a_command_has_this_userland_and_writes_only_to_its_folder(
    kickbench: Command, tmp_path: Path
) -> None:
    share = tmp_path / "share"
    share.mkdir()
    witness = tmp_path / "witness"
    script = (
        f"uname -r; echo to-stderr >&2; echo kept > /run/kickbench-share/kept; "
        f"echo lost > {witness}; cat {witness}; exit 7"
    )
    done = steadily(
        kickbench, "lab", "run", "debian/6.12", "--share", str(share), "--", "sh", "-c", script
    )
    assert done.returncode == 7
    release, said = done.stdout.splitlines()
    assert release.startswith("6.12.")
    assert said == "lost"
    assert "to-stderr" in done.stderr
    assert "runs on" in done.stderr
    assert (share / "kept").read_text() == "kept\n"
    assert not witness.exists()


def test_a_panic_is_a_lost_lab_with_its_reason(kickbench: Command) -> None:
    done = kickbench("lab", "run", "debian/6.12", "--", "sh", "-c", "echo c > /proc/sysrq-trigger")
    assert done.returncode == 62
    assert "Kernel panic" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_lab_that_does_not_come_up_in_time_is_lost(kickbench: Command) -> None:
    done = kickbench(
        "lab", "run", "debian/6.12", "--", "true", env={**os.environ, "KICKBENCH_LAB_BOOT": "0.5"}
    )
    assert done.returncode == 62
    assert "did not come up" in done.stderr


def test_the_path_of_the_runtime_folder_may_be_long_and_odd(
    kickbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket's path has at most 107 bytes, and a comma ends an option of QEMU."""
    runtime = tmp_path / ("long, 'odd' " * 12).strip()
    monkeypatch.setenv("KICKBENCH_RUNTIME", str(runtime))
    done = steadily(kickbench, "lab", "run", "debian/6.12", "--", "true")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in runtime.iterdir()) == ["measuring.lock", "registry.lock"]


def test_too_little_memory_is_reported_before_anything_is_booted(kickbench: Command) -> None:
    env = {**os.environ, "KICKBENCH_LAB_MEMORY": str(1 << 30)}
    done = kickbench("lab", "run", "debian/6.12", "--", "true", env=env)
    assert done.returncode == 61
    assert "MiB of memory" in done.stderr


def test_an_unknown_kernel_is_refused_with_the_nearest(kickbench: Command) -> None:
    done = kickbench("lab", "run", "6.1.0-5600-amd64", "--", "true")
    assert done.returncode == 43
    assert "Similar names: 6.1.0-" in done.stderr


def _start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [KICKBENCH, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _kill_labs(runtime: Path) -> None:
    """Kill the labs of the run of this runtime folder. Their processes have the mark of the run."""
    runs = {each.name for each in runtime.iterdir() if ownership.RUN_ID.fullmatch(each.name)}
    pids = [int(each.name) for each in Path("/proc").glob("[0-9]*")]
    labs = [
        pid
        for pid in pids
        if ownership.run_of_process(pid) in runs and process.name_of(pid) == GUEST
    ]
    assert labs
    for pid in labs:
        os.kill(pid, signal.SIGKILL)


def test_a_lab_that_is_killed_in_mid_trial_is_a_lost_trial(clean_host: Path, runtime: Path) -> None:
    """The trials after it are made in a new lab."""
    with _start(
        "trial",
        "--kernel",
        "debian/6.12",
        "--scenario",
        "idle",
        "--request",
        "stop",
        "-n",
        str(TRIALS),
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if "runs on" in line:
                _kill_labs(runtime)
                break
        rest = running.stdout.read()
    assert running.returncode == 4, rest
    records = record.read(RECORDS)[0]
    assert len(records) == TRIALS
    killed = [made for made in records if "The lab was lost" in (made.reason or "")]
    assert {made.outcome for made in killed} == {Outcome.LOST}
    assert Outcome.RETURNED in {made.outcome for made in records}


def test_a_lab_dies_with_the_process_that_booted_it(clean_host: Path, runtime: Path) -> None:
    with _start("lab", "run", "debian/6.1", "--", "sleep", "100") as running:
        assert running.stdout is not None
        assert any("runs on" in line for line in running.stdout)
        assert leftovers.find(runtime).processes == ()
        running.kill()
    deadline = Deadline.after(HANG_S)
    while processes := leftovers.find(runtime).processes:
        assert not deadline.passed, processes
    leftovers.end(runtime)


def test_a_campaign_that_was_interrupted_continues_with_its_missing_boots(
    clean_host: Path, kickbench: Command
) -> None:
    arguments = [
        "lab", "campaign", "debian/6.1", "debian/6.12", "--boots", "1", "-n", "1",
        "--scenario", "idle",
    ]  # fmt: skip
    with _start(*arguments) as running:
        assert running.stdout is not None
        boots = 0
        for line in running.stdout:
            boots += "runs on" in line
            if boots == 2:
                running.send_signal(signal.SIGINT)
                break
        running.stdout.read()
    assert running.returncode == 130
    kept = record.read(RECORDS)[0]
    assert [made.slot.number for made in kept if made.slot] == [0]

    done = steadily(kickbench, *arguments)
    assert done.returncode == 0, done.stderr
    assert "1 of 2 boots are recorded" in done.stderr
    records = record.read(RECORDS)[0]
    assert records[:1] == kept
    assert [made.slot.number for made in records if made.slot] == [0, 1]

    again = kickbench(*arguments)
    assert "2 of 2 boots are recorded" in again.stderr
    assert record.read(RECORDS)[0] == records

    # One boot of each kernel settles nothing, in either direction.
    for names in (["debian/6.1", "debian/6.12"], ["debian/6.12", "debian/6.1"]):
        judged = kickbench("gate", *names, "--json")
        assert judged.returncode == 2, judged.stdout + judged.stderr
        assert json.loads(judged.stdout)["boots_needed"] == 5


def test_the_static_label_agrees_with_what_the_kernels_do(kickbench: Command) -> None:
    rows = json.loads(kickbench("kernels", "list", "--json").stdout)
    fetched = [row for row in rows if row["fetched"] and row["stream"].startswith("debian/")]
    labels = {row["stream"]: row["interruptible"] for row in fetched}
    assert labels["debian/6.1"] == "no"
    assert labels["debian/6.12"] == "yes"


def test_a_probe_that_is_killed_while_its_vcpu_cannot_be_leaves_nothing(
    kickbench: Command,
) -> None:
    """On 6.1 the stuck thread takes only SIGKILL, which the kernel sends when its parent dies."""
    script = f"""
        {KICKBENCH} probe --case gup-write --deadline {HANG_S} & probe=$!
        while kill -0 $probe; do
            worker=$(pgrep -P $probe | head -n 1)
            grep -q handle_userfault /proc/$worker/wchan &&
                grep -q 'SigPnd:.*[1-9a-f]' /proc/$worker/status && break
            sleep 0.2
        done 2>/dev/null
        grep State: /proc/$worker/status
        kill -KILL $probe
        while grep -qs 'State:.[^XZ]' /proc/$worker/status; do sleep 0.2; done
        echo nothing is left
    """
    done = steadily(kickbench, "lab", "run", "debian/6.1", "--", "sh", "-c", script)
    assert "State:\tD" in done.stdout
    assert done.stdout.splitlines()[-1] == "nothing is left"


ENDS_OR_STOPS = [
    RequestName.CTRL_C,
    RequestName.GDB_ATTACH,
    RequestName.PTRACE_INTERRUPT,
    RequestName.GDBSTUB_BREAK,
    RequestName.SIGTERM,
    RequestName.QUIT,
    RequestName.SIGUSR1,
    RequestName.REGISTERS,
    RequestName.CGROUP_FREEZE,
]
"""Requests that need the vCPU, except `stop`, which has its own tests."""


def _needs_the_flag(case: Case) -> bool:
    """Whether only a kernel with the flag answers the request."""
    stuck = case.scenario is not ScenarioName.DEGRADED and case.shape.image != "async-pf"
    return stuck and case.request in {*ENDS_OR_STOPS, RequestName.STOP}


@pytest.mark.parametrize("kernel, flag", [("debian/6.1", False), ("debian/6.12", True)])
def test_requests_hang_without_the_flag_and_the_guest_survives_that(
    clean_host: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch, kernel: str, flag: bool
) -> None:
    cases = [
        *(Case(ScenarioName.BLACKHOLE, request) for request in ENDS_OR_STOPS),
        Case(ScenarioName.BLACKHOLE, RequestName.SIGKILL),
        Case(ScenarioName.BLACKHOLE, RequestName.QUERY_STATUS),
        Case(ScenarioName.BLACKHOLE, RequestName.STOP, Shape(image="async-pf")),
        Case(ScenarioName.DEGRADED, RequestName.STOP),
        Case(ScenarioName.PAUSED_TIMEOUT, RequestName.STOP),
        Case(ScenarioName.BLACKHOLE, RequestName.STOP, Shape(vcpus=2), recover=True),
        Case(ScenarioName.BLACKHOLE, RequestName.GDB_ATTACH, recover=True),
    ]
    made_of: dict[Case, record.Record] = {}
    for deadline, alike in (
        (HANGS_S, [case for case in cases if not flag and _needs_the_flag(case)]),
        (ANSWERS_S, [case for case in cases if flag or not _needs_the_flag(case)]),
    ):
        if not alike:
            continue
        monkeypatch.setenv("KICKBENCH_DEADLINE", deadline)
        settings = Settings.from_environment()
        build = bootable(settings, kernel)
        runner = trials.LabRunner(build, settings, lambda facts: None)
        records = runner.run(alike, lambda record: None)
        made_of |= dict(zip(alike, records, strict=True))
    # A trial that is lost under emulation shows nothing about the kernel.
    # One in twelve is lost, so half of them are lost once in 100,000 runs.
    scored = {case: made for case, made in made_of.items() if made.outcome is not Outcome.LOST}
    assert 2 * len(scored) > len(cases), [made.reason for made in made_of.values()]
    for case, made in scored.items():
        if case.scenario is ScenarioName.DEGRADED:
            # Pages come slowly, and how slowly depends on the kernel.
            assert made.outage == "netem-degraded"
            continue
        hangs = not flag and _needs_the_flag(case)
        path = Entry.ASYNC_PF if case.shape.image == "async-pf" else Entry.GUP
        assert made.outcome is (Outcome.ASLEEP if hangs else Outcome.RETURNED), case
        assert {each.entry for each in made.evidence.vcpus} == {path}
        if case.recover:
            assert made.recovery is not None
            assert made.recovery.memory == "whole"
            # A gdb that hangs is ended, because QEMU can do nothing while it is attached.
            waited = hangs and case.request is RequestName.STOP
            assert (made.recovery.answered_ns is not None) == waited


def test_kvm_waits_for_a_stuck_vcpu_before_it_has_another_memory_slot_even_with_the_flag(
    clean_host: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KICKBENCH_DEADLINE", HANGS_S)
    settings = Settings.from_environment()
    runner = trials.LabRunner(bootable(settings, "debian/6.12"), settings, lambda facts: None)
    case = Case(ScenarioName.BLACKHOLE, RequestName.PLUG_MEMORY, recover=True)
    (made,) = runner.run([case], lambda record: None)
    assert made.outcome is Outcome.ASLEEP, made.reason
    blocking = made.evidence.blocking
    assert blocking is not None
    assert (blocking.role, blocking.entry) == (Role.VCPU, Entry.GUP)
    (main,) = (each for each in made.evidence.after if each.role is Role.MAIN)
    assert (main.state, main.waits_for) == ("D", WaitsFor.LOCK)
    assert made.recovery is not None
    assert made.recovery.memory == "whole"
    assert made.recovery.answered_ns is not None


@pytest.mark.parametrize(
    "kernel, outcome, state, label",
    [("debian/6.1", "asleep", "D", "no"), ("debian/6.12", "returned", "S", "yes")],
)
def test_the_probe_agrees_with_the_trials_and_with_the_label(
    kickbench: Command, kernel: str, outcome: str, state: str, label: str
) -> None:
    done = steadily(
        kickbench, "probe", "--kernel", kernel, "-n", "5", "--json",
        "--case", "gup-write", "--case", "async-pf", "--case", "gup-write-sigkill",
        "--case", "kvmclock", "--case", "gup-write-memslot", "--case", "pre-fault",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    stuck, halted, killed, clock, memslot, pre_fault = told["cases"]
    assert (stuck["outcome"], stuck["state"], stuck["fault_path"]) == (outcome, state, "gup")
    assert (halted["outcome"], halted["fault_path"]) == ("returned", "async-pf")
    assert killed["outcome"] == "returned"
    assert told["interruptible"] == label
    # No kernel passes the flag there.
    assert (clock["outcome"], clock["state"], clock["fault_path"]) == ("asleep", "D", "gpc")
    assert (memslot["outcome"], memslot["after"]["state"]) == ("asleep", "D")
    # The ioctl came after the flag, so it never hangs.
    assert pre_fault["outcome"] == ("returned" if label == "yes" else None)


@pytest.mark.parametrize("kernel, flag", [("debian/6.1", False), ("debian/6.12", True)])
def test_libvirt_can_destroy_a_stuck_guest_before_it_sends_sigkill_only_with_the_flag(
    clean_host: Path, kernel: str, flag: bool
) -> None:
    """libvirt sends SIGTERM, and SIGKILL after 10 s."""
    settings = Settings.from_environment()
    case = Case(ScenarioName.BLACKHOLE, RequestName.VIRT_DESTROY, manager=ManagerName.LIBVIRT)
    runner = trials.LabRunner(bootable(settings, kernel), settings, lambda facts: None)
    made = runner.run([case, case], lambda record: None)
    # A trial that is lost under emulation shows nothing about the kernel.
    scored = [each for each in made if each.outcome is not Outcome.LOST]
    assert scored, [each.reason for each in made]
    for each in scored:
        assert each.outcome is Outcome.RETURNED, each.reason
        assert each.ended_ns is not None
        assert (each.ended_ns < 10 * NS_PER_S) is flag
