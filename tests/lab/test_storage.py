# SPDX-License-Identifier: BSD-3-Clause
"""Guests whose memory comes from a store that only labs can have."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench_lib.cli.kernels import bootable
from bench_lib.lab import trials
from bench_lib.record import Entry, Outcome, Record, RequestName, ScenarioName, WaitsFor
from bench_lib.settings import Settings
from bench_lib.trial.case import Case
from tests.lab.conftest import HANG_S

pytestmark = pytest.mark.timeout(HANG_S + 300)

WAITS = {
    ScenarioName.NFS_HARD: WaitsFor.PAGE_CACHE,
    ScenarioName.NFS_WRITEBACK: WaitsFor.NFS,
    ScenarioName.SWAP_ANONYMOUS: WaitsFor.SWAP,
    ScenarioName.SWAP_MEMFD: WaitsFor.SWAP,
}
"""What the vCPU waits for. In all of these, no signal but SIGKILL ends the wait."""

SLOW = {
    ScenarioName.NFS_SOFT: WaitsFor.PAGE_CACHE,
    ScenarioName.MEMORY_HIGH: WaitsFor.MEMORY_LIMIT,
}
"""The scenarios in which the wait ends by itself, perhaps only after the deadline."""

UNKILLABLE = {ScenarioName.NFS_HARD, ScenarioName.NFS_WRITEBACK, ScenarioName.SWAP_MEMFD}
"""The scenarios in which SIGKILL is not answered. In `nfs-hard` it ends the wait, but the end of
QEMU waits until its dirty pages are written to the server."""


def test_only_some_stores_can_be_left_and_no_memory_is_lost(
    clean_host: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KICKBENCH_DEADLINE", "5")
    settings = Settings.from_environment()
    stops = [Case(each, RequestName.STOP) for each in (*WAITS, *SLOW)]
    kills = [Case(each, RequestName.SIGKILL) for each in (*UNKILLABLE, ScenarioName.SWAP_ANONYMOUS)]
    runner = trials.LabRunner(bootable(settings, "debian/6.12"), settings, lambda facts: None)
    made = dict(
        zip([*stops, *kills], runner.run([*stops, *kills], lambda record: None), strict=True)
    )
    # A trial that is lost under emulation shows nothing about the kernel.
    scored = {case: each for case, each in made.items() if each.outcome is not Outcome.LOST}
    assert 2 * len(scored) > len(made), [each.reason for each in made.values()]
    for case, each in scored.items():
        if case.scenario in SLOW:
            _answers_in_the_end(each, SLOW[case.scenario])
            continue
        hangs = case.request is RequestName.STOP or case.scenario in UNKILLABLE
        assert each.outcome is (Outcome.ASLEEP if hangs else Outcome.RETURNED), case
        (vcpu,) = each.evidence.vcpus
        assert (vcpu.state, vcpu.entry) == ("D", Entry.GUP)
        assert vcpu.waits_for is WAITS[case.scenario]
        assert each.store
        assert each.survivors == ()
        if case.request is RequestName.STOP:
            assert each.recovery is not None
            assert each.recovery.memory == "whole", each.recovery


def _answers_in_the_end(made: Record, waits_for: WaitsFor) -> None:
    (vcpu,) = made.evidence.vcpus
    assert vcpu.waits_for is waits_for
    assert made.recovery is not None
    assert made.recovery.memory == "whole", made.recovery
