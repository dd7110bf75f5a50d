# SPDX-License-Identifier: BSD-3-Clause
"""Trials, campaigns and commands in labs that are fakes: processes that talk like the agent."""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from bench_lib import record
from bench_lib.cli import kernels, main
from bench_lib.errors import KvmUnavailable, LabError, LabLost, LabUnavailable
from bench_lib.host import device, setup
from bench_lib.kernel.ledger import describe
from bench_lib.kernel.store import Bootable
from bench_lib.lab import campaign, qemu, trials, vm
from bench_lib.lab.campaign import Campaign
from bench_lib.record import Host, Outcome, Record, RequestName, ScenarioName
from bench_lib.settings import Settings
from bench_lib.trial.case import Case
from tests import make

KERNEL = Bootable(describe(make.KERNEL), "somewhere", Path("/nowhere"))
SCENARIOS = (ScenarioName.IDLE, ScenarioName.BLACKHOLE)
CASES = [Case(scenario, RequestName.STOP) for scenario in SCENARIOS]
HERE = Host("lab", "tcg", platform.node())
MADE = [dataclasses.replace(make.record(scenario=case.scenario), host=HERE) for case in CASES]

Message = tuple[str, str]
KILLED: Message = ("exit", "-9\0")
FINE: Message = ("exit", "0\0")

PLAYER = r"""
import base64, json, socket, sys
fd, accelerator, script = sys.argv[1:]
host = socket.socket(fileno=int(fd))
lines = host.makefile("rw")
def say(word, body):
    print(word, base64.b64encode(body.encode()).decode(), file=lines, flush=True)
say("ready", f"6.1\0#1\0{accelerator}\0")
lines.readline()
for word, body in json.loads(script):
    body = body.replace("MANY", "A" * (4 << 20))
    if word == "raw":
        print(body, end="", file=lines, flush=True)
    elif word == "console":
        print(body, end="", flush=True)
    else:
        say(word, body)
    if word == "exit":
        lines.readline()
"""
"""Plays its script once it receives a command, and then dies. After an `exit` it waits to be ended.
`raw` is sent unencoded, `console` is printed, and MANY stands for 4 MiB, which would not fit into
an argument."""


def _out(text: str) -> Message:
    return ("out", text)


def _line(made: Record) -> Message:
    return _out(record.to_line(made) + "\n")


@pytest.fixture
def boots(history: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Sets the scripts of the labs that are booted one after another, and returns the settings."""
    monkeypatch.setenv("KICKBENCH_LAB_MEMORY", "1")
    monkeypatch.setattr(vm, "CONSOLE_END_S", 0.1)
    monkeypatch.setattr(qemu, "accelerator", lambda: "tcg")
    monkeypatch.setattr(qemu, "version", lambda: "11.1.3")

    def play(*scripts: list[Message], accelerator: str = "tcg") -> Settings:
        left = list(scripts)

        def command_line(kernel: Bootable, agent_fd: int, *_: object) -> list[str]:
            arguments = [str(agent_fd), accelerator, json.dumps(left.pop(0))]
            return [sys.executable, "-I", "-S", "-c", PLAYER, *arguments]

        monkeypatch.setattr(qemu, "command_line", command_line)
        return Settings.from_environment()

    return play


def _run(settings: Settings) -> list[Record]:
    runner = trials.LabRunner(KERNEL, settings, lambda facts: None)
    return runner.run(CASES, lambda made: None)


def test_a_lab_that_dies_after_its_last_record_has_lost_nothing(
    boots: Callable[..., Settings],
) -> None:
    settings = boots([_line(made) for made in MADE])
    assert [each.outcome for each in _run(settings)] == [Outcome.RETURNED] * 2
    kept = record.read(settings.records)[0]
    assert [(each.qemu, each.lab_qemu) for each in kept] == [("7.2.22", "11.1.3")] * 2


def test_a_campaign_keeps_the_boot_of_a_lab_that_dies_after_its_last_record(
    boots: Callable[..., Settings],
) -> None:
    settings = boots([_line(made) for made in MADE])
    plan = Campaign([KERNEL], 1, CASES)
    campaign.run(plan, settings, lambda made: None, lambda facts: None)
    kept = record.read(settings.records)[0]
    assert [each.scenario for each in kept] == [case.scenario for case in CASES]
    assert plan.missing(kept) == []


def test_trials_that_fail_after_their_last_record_have_lost_nothing(
    boots: Callable[..., Settings],
) -> None:
    settings = boots([*(_line(made) for made in MADE), ("exit", "1\0")])
    assert [each.outcome for each in _run(settings)] == [Outcome.RETURNED] * 2


def test_a_lab_that_dies_before_has_lost_the_trial_that_ran(
    boots: Callable[..., Settings],
) -> None:
    settings = boots([_line(MADE[0])])
    first, last = _run(settings)
    assert (first.outcome, last.outcome) == (Outcome.RETURNED, Outcome.LOST)
    assert last.scenario is ScenarioName.BLACKHOLE


def test_trials_that_were_not_made_because_labs_died_are_counted(
    boots: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    settings = boots([], [], [])
    cases = [*CASES, *CASES]
    runner = trials.LabRunner(KERNEL, settings, lambda facts: None)
    made = runner.run(cases, lambda each: None)
    assert [each.outcome for each in made] == [Outcome.LOST] * 3
    assert "3 labs" in caplog.text
    assert "1 of 4 trials were not made" in caplog.text


def test_if_a_signal_ends_trials_one_is_lost_and_the_rest_run_in_a_new_lab(
    boots: Callable[..., Settings],
) -> None:
    settings = boots([KILLED], [_line(MADE[1]), FINE])
    lost, made = _run(settings)
    assert lost.outcome is Outcome.LOST
    assert lost.reason is not None
    assert "ended by SIGKILL" in lost.reason
    assert made.outcome is Outcome.RETURNED


def test_trials_that_cannot_be_run_are_an_error_with_the_last_line_of_their_output(
    boots: Callable[..., Settings],
) -> None:
    settings = boots([("err", "some log\nQEMU is not installed.\n"), ("exit", "23\0")])
    with pytest.raises(
        LabError, match=r"Trials cannot be run under kernel .*: QEMU is not installed"
    ):
        _run(settings)


@pytest.mark.parametrize(
    "sent",
    [
        "no message at all\n",
        "out not-base64!\n",
        "out aGFsZg",
        "\xff\xfe\n",
        "out MANY\n",
        "exit \n",
        "exit bm8gbnVtYmVyAA==\n",
    ],
    ids=["no word", "no base64", "half a line", "no text", "too long", "no status", "no number"],
)
def test_a_lab_that_sends_garbage_is_lost_and_the_next_trial_is_made_in_a_new_one(
    boots: Callable[..., Settings], sent: str
) -> None:
    settings = boots([("raw", sent), FINE], [_line(MADE[1]), FINE])
    lost, made = _run(settings)
    assert lost.outcome is Outcome.LOST
    assert made.outcome is Outcome.RETURNED


def test_a_console_may_print_a_line_without_an_end(boots: Callable[..., Settings]) -> None:
    settings = boots([("console", "MANY\n the last\n"), KILLED], [_line(MADE[1])])
    lost, _ = _run(settings)
    assert lost.reason is not None
    assert lost.reason.endswith("Its console printed: the last")


def test_the_time_to_make_an_initramfs_is_not_the_labs_boot_time(
    boots: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = boots([*map(_line, MADE), FINE])
    quick, now_s = qemu.command_line, [0.0]

    def slow(kernel: Bootable, agent_fd: int, share: Path, settings: Settings) -> list[str]:
        now_s[0] += 1000
        return quick(kernel, agent_fd, share, settings)

    monkeypatch.setattr(qemu, "command_line", slow)
    monkeypatch.setattr(vm, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    facts: list[vm.Facts] = []
    trials.LabRunner(KERNEL, settings, facts.append).run(CASES, lambda made: None)
    assert [each.boot_s for each in facts] == [0]


def test_the_failure_before_a_lab_that_came_up_is_reported(
    boots: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = boots([*map(_line, MADE), FINE])
    play, first = qemu.command_line, [["sh", "-c", "echo Kernel panic; exit 3"]]
    monkeypatch.setattr(qemu, "command_line", lambda *of: first.pop() if first else play(*of))
    facts: list[vm.Facts] = []
    trials.LabRunner(KERNEL, settings, facts.append).run(CASES, lambda made: None)
    (told,) = map(str, facts)
    assert "did not come up: QEMU exited with status 3" in told
    assert "Kernel panic" in told


def test_a_lab_that_gives_up_is_lost_with_its_reason(
    history: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is not what the kernel prints while it restarts."""
    said = "echo kickbench: 9p cannot be loaded; echo reboot: Restarting system"
    monkeypatch.setenv("KICKBENCH_LAB_MEMORY", "1")
    monkeypatch.setattr(qemu, "accelerator", lambda: "kvm")
    monkeypatch.setattr(qemu, "command_line", lambda *_: ["sh", "-c", said])
    with pytest.raises(LabLost, match=r"Its console printed: kickbench: 9p cannot be loaded$"):
        _run(Settings.from_environment())


def test_if_a_signal_ends_the_probe_the_lab_is_lost(
    boots: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    boots([_out("healthy ...\n"), KILLED])
    monkeypatch.setattr(kernels, "bootable", lambda settings, name: KERNEL)
    done = CliRunner().invoke(main, ["probe", "--kernel", "debian/6.1"])
    assert done.exit_code == LabLost.exit_status
    assert "ended by SIGKILL" in done.output


def test_a_command_that_a_signal_ends_has_the_exit_status_of_a_shell(
    boots: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    boots([KILLED])
    monkeypatch.setattr("bench_lib.cli.lab.bootable", lambda settings, name: KERNEL)
    done = CliRunner().invoke(main, ["lab", "run", "debian/6.1", "--", "true"])
    assert done.exit_code == 128 + 9


def test_a_lab_with_another_accelerator_than_expected_is_refused(
    boots: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = boots([FINE], accelerator="tcg")
    monkeypatch.setattr(qemu, "accelerator", lambda: "kvm")
    with pytest.raises(LabUnavailable, match=r"runs on tcg.*expected to run on kvm"):
        _run(settings)
    assert not settings.records.exists()


@pytest.mark.parametrize(
    ("nests", "usable", "expected"),
    [(True, True, "kvm"), (True, False, "tcg"), (False, True, "tcg"), (None, True, "tcg")],
)
def test_a_lab_runs_on_kvm_if_kvm_works_and_nests(
    monkeypatch: pytest.MonkeyPatch, nests: bool | None, usable: bool, expected: str
) -> None:
    """In a container, /sys may show that the module nests though there is no /dev/kvm."""

    def check() -> None:
        if not usable:
            raise KvmUnavailable("There is no /dev/kvm.")

    monkeypatch.setattr(setup, "nested", lambda: nests)
    monkeypatch.setattr(device, "check", check)
    qemu.accelerator.cache_clear()
    try:
        assert qemu.accelerator() == expected
    finally:
        qemu.accelerator.cache_clear()


PATTERNS = ["guests/6.1-*", "libvirt/**/*.xml"]


def _files(folder: Path) -> dict[str, bytes]:
    found = (each for each in folder.rglob("*") if each.is_file())
    return {str(each.relative_to(folder)): each.read_bytes() for each in found}


def _cache(folder: Path) -> Path:
    for name in ("guests/6.1-a.state", "guests/6.12-b.state", "libvirt/c/d.xml", "libvirt/e.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_a_lab_gets_a_part_of_the_cache(tmp_path: Path) -> None:
    trials.copy_changed(_cache(tmp_path / "from"), tmp_path / "to", PATTERNS)
    assert set(_files(tmp_path / "to")) == {"guests/6.1-a.state", "libvirt/c/d.xml"}


def test_what_a_lab_has_not_changed_is_not_written_again(tmp_path: Path) -> None:
    cache = _cache(tmp_path / "from")
    inode = (cache / "guests/6.1-a.state").stat().st_ino
    trials.copy_changed(cache, tmp_path / "to", PATTERNS)
    trials.copy_changed(tmp_path / "to", cache, PATTERNS)
    assert (cache / "guests/6.1-a.state").stat().st_ino == inode


def test_a_state_that_a_lab_has_made_anew_replaces_a_damaged_one_of_the_same_size(
    tmp_path: Path,
) -> None:
    cache = _cache(tmp_path / "from")
    trials.copy_changed(cache, tmp_path / "to", PATTERNS)
    anew = tmp_path / "to" / "guests/6.1-a.state"
    anew.write_bytes(anew.read_bytes().upper())
    trials.copy_changed(tmp_path / "to", cache, PATTERNS)
    assert _files(cache)["guests/6.1-a.state"] == b"GUESTS/6.1-A.STATE"


def test_a_file_that_cannot_be_copied_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = _cache(tmp_path / "from")
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "guests").write_text("This file is where the folder should be.")
    trials.copy_changed(cache, tmp_path / "to", PATTERNS)
    assert _files(tmp_path / "to")["libvirt/c/d.xml"] == b"libvirt/c/d.xml"
    assert "guests/6.1-a.state was not copied to" in caplog.text
