"""What is made of what labs do. They only play labs: processes that talk as its agent does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench_lib.errors import KvmUnavailable, LabUnavailable
from bench_lib.host import setup
from bench_lib.kernel.ledger import describe
from bench_lib.kernel.store import Bootable
from bench_lib.kvm import device
from bench_lib.lab import machine, trials
from bench_lib.record import Record, RequestName, ScenarioName
from bench_lib.settings import Settings
from bench_lib.trial.case import Case
from tests import make

KERNEL = Bootable(describe(make.KERNEL), "somewhere", Path("/nowhere"))
SCENARIOS = (ScenarioName.IDLE, ScenarioName.BLACKHOLE)
CASES = [Case(scenario, RequestName.STOP) for scenario in SCENARIOS]

Message = dict[str, Any]
FINE: Message = {"exit": 0}

PLAYER = """
import json, socket, sys
path, accelerator, script = sys.argv[1:]
host = socket.socket(socket.AF_UNIX)
host.connect(path)
lines = host.makefile("rw")
def say(message):
    print(json.dumps(message), file=lines, flush=True)
say({"ready": {"release": "6.1", "version": "#1", "accelerator": accelerator, "missing": []}})
lines.readline()
for message in json.loads(script):
    say(message)
    if "exit" in message:
        lines.readline()
"""
"""Does what its script says once it is told to run a command, and then dies, unless the last was
an exit, after which it waits to be ended."""


@pytest.fixture
def boots(history: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Sets what the labs do that are booted, one after another; gives the settings."""
    monkeypatch.setenv("KICKBENCH_LAB_MEMORY", "1")
    monkeypatch.setattr(machine, "LAST_WORDS_S", 0.1)
    monkeypatch.setattr(machine, "accelerator", lambda: "tcg")

    def play(*scripts: list[Message], accelerator: str = "tcg") -> Settings:
        left = list(scripts)

        def command_line(kernel: Bootable, folder: Path, *_: object) -> list[str]:
            arguments = [str(folder / "agent.sock"), accelerator, json.dumps(left.pop(0))]
            return [sys.executable, "-I", "-S", "-c", PLAYER, *arguments]

        monkeypatch.setattr(machine, "command_line", command_line)
        return Settings.from_environment()

    return play


def _run(settings: Settings) -> list[Record]:
    return trials.run(KERNEL, CASES, settings, lambda made: None, lambda facts: None)


def test_a_lab_that_runs_on_something_else_than_was_found_out_is_refused(
    boots: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = boots([FINE], accelerator="tcg")
    monkeypatch.setattr(machine, "accelerator", lambda: "kvm")
    with pytest.raises(LabUnavailable, match=r"runs on tcg.*found to give it kvm"):
        _run(settings)
    assert not settings.records.exists()


@pytest.mark.parametrize(
    ("nests", "usable", "expected"),
    [(True, True, "kvm"), (True, False, "tcg"), (False, True, "tcg"), (None, True, "tcg")],
)
def test_a_lab_has_kvm_where_it_nests_and_may_be_used(
    monkeypatch: pytest.MonkeyPatch, nests: bool | None, usable: bool, expected: str
) -> None:
    """A container may see in /sys that the module nests, and have no /dev/kvm."""

    def check() -> None:
        if not usable:
            raise KvmUnavailable("There is no /dev/kvm.")

    monkeypatch.setattr(setup, "nested", lambda: nests)
    monkeypatch.setattr(device, "check", check)
    machine.accelerator.cache_clear()
    try:
        assert machine.accelerator() == expected
    finally:
        machine.accelerator.cache_clear()
