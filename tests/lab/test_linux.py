# SPDX-License-Identifier: BSD-3-Clause
"""Linux guests in labs. On a quiet host the tests take three minutes under emulation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bench_lib.cli.kernels import bootable, fetch_guest
from bench_lib.guest.workloads.description import shape_of
from bench_lib.lab import trials
from bench_lib.record import Entry, Outcome, Record, RequestName, ScenarioName
from bench_lib.settings import Settings
from bench_lib.trial.case import Case
from tests.lab.conftest import CACHE, HANG_S

pytestmark = pytest.mark.timeout(HANG_S + 900)

SHAPE = shape_of("linux", vcpus=2)
AT_SWITCH = Case(ScenarioName.FROZEN_SOURCE, RequestName.STOP, SHAPE)
LATER = Case(ScenarioName.BLACKHOLE, RequestName.STOP, SHAPE, recover=True)
BOOTED = Case(ScenarioName.BLACKHOLE, RequestName.STOP, SHAPE, boot=True)

DEADLINE_S = "20"
"""`stop` is answered within 0.1 s, or not at all."""


@pytest.fixture
def cache(clean_host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that has the user's kernels, and no states."""
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "kernels").symlink_to(CACHE / "kernels")
    (folder / "suites").symlink_to(CACHE / "suites")
    monkeypatch.setenv("KICKBENCH_CACHE", str(folder))
    monkeypatch.setenv("KICKBENCH_DEADLINE", DEADLINE_S)
    return folder


ATTEMPTS = 4
"""How often a case is tried. About one emulated lab in twenty hangs while a Linux guest runs in it,
and one in five while such a guest boots."""


def _made(*cases: Case) -> list[tuple[Case, Record]]:
    """Make trials. One that is lost under emulation shows nothing, and is made again."""
    settings = Settings.from_environment()
    fetch_guest(settings, cases)
    runner = trials.LabRunner(bootable(settings, "debian/6.12"), settings, lambda facts: None)
    made: list[tuple[Case, Record]] = []
    left = list(cases)
    for _ in range(ATTEMPTS):
        now = list(zip(left, runner.run(left, lambda record: None), strict=False))
        made += now
        scored = {case for case, each in now if each.outcome is not Outcome.LOST}
        left = [case for case in left if case not in scored]
        if not left:
            break
    return made


def _files(cache: Path) -> dict[str, tuple[int, int]]:
    """The files of states, by name; their inodes and times show whether they were written again."""
    found = {each.name: each.stat() for each in (cache / "guests").iterdir()}
    return {name: (each.st_ino, each.st_mtime_ns) for name, each in found.items()}


def _scored(case: Case, made: Sequence[tuple[Case, Record]]) -> list[Record]:
    records = [each for made_of, each in made if made_of == case]
    scored = [each for each in records if each.outcome is not Outcome.LOST]
    assert scored, [each.reason for each in records]
    return scored


def test_a_linux_guest_hangs_at_the_switch_but_returns_later_however_it_started(
    cache: Path,
) -> None:
    """It is booted once, and its state is kept for the next lab."""
    made = _made(AT_SWITCH, LATER)
    states = _files(cache)
    assert sorted(Path(name).suffix for name in states) == [".json", ".state"]
    made += _made(AT_SWITCH, LATER, BOOTED)
    assert _files(cache) == states

    for case, each in made:
        if each.outcome is Outcome.LOST:
            continue
        assert each.guest_start == ("booted" if case.boot else "restored")
        assert (each.guest_boot_ns is None) == case.boot
        assert each.guest_kernel is not None
        assert each.guest_kernel.release.startswith("6.12.")
    for each in _scored(AT_SWITCH, made):
        # KVM waits for a page that it shares with the guest, and no flag ends that.
        assert each.outcome in {Outcome.SPINNING, Outcome.ASLEEP}
        assert {vcpu.entry for vcpu in each.evidence.vcpus} <= {Entry.UACCESS, Entry.GPC}
        assert len(each.evidence.vcpus) == SHAPE.vcpus
    for each in _scored(LATER, made):
        assert each.recovery is not None
        assert each.recovery.memory == "whole"
    for each in [*_scored(LATER, made), *_scored(BOOTED, made)]:
        assert each.outcome is Outcome.RETURNED
        paths = {vcpu.entry for vcpu in each.evidence.vcpus}
        assert paths <= {Entry.GUP, Entry.HALTED, Entry.ASYNC_PF}
        assert paths & {Entry.GUP, Entry.ASYNC_PF}
