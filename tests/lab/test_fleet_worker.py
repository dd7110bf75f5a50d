# SPDX-License-Identifier: BSD-3-Clause
"""What a host of a fleet does with other kernels, in labs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench_lib import ownership, record
from bench_lib.fleet.performing import Offer, ThisHost
from bench_lib.fleet.work import Kind, Result, Work
from bench_lib.host import identity
from bench_lib.kernel.names import meant
from bench_lib.kernel.store import Store
from bench_lib.record import Kernel, RequestName, ScenarioName
from bench_lib.settings import Settings
from bench_lib.trial.case import Case

LIMIT_S = 1500.0
CASES = (Case(ScenarioName.IDLE, RequestName.STOP), Case(ScenarioName.BLACKHOLE, RequestName.STOP))


def perform(kernel: Kernel) -> Result:
    """Make the trials of one boot in a lab."""
    offer = Offer((Kind.LAB,), 1, frozenset(os.sched_getaffinity(0)))
    work = Work(Kind.LAB, kernel, CASES, LIMIT_S)
    return ThisHost(Settings.from_environment(), offer).perform(work)


@pytest.fixture
def kernel(clean_host: Path) -> Kernel:
    builds = [each.build for each in Store.of(Settings.from_environment()).all()]
    return meant("debian/6.1", builds)[-1].kernel


def test_a_boot_in_a_lab_has_the_id_of_its_host(clean_host: Path, kernel: Kernel) -> None:
    result = perform(kernel)
    assert result.failure is None
    records = [record.from_line(each) for each in result.lines]
    assert [each.scenario for each in records] == [each.scenario for each in CASES]
    for each in records:
        assert (each.kernel, each.host.kind) == (kernel, "lab")
        assert each.machine_id == identity.machine_id()
        assert each.worker_cpu is not None
    assert not (clean_host / ".asv").exists()


def test_a_lab_does_not_run_beside_a_run_of_the_operator(
    clean_host: Path, runtime: Path, kernel: Kernel
) -> None:
    with ownership.measuring(runtime):
        result = perform(kernel)
    assert (result.busy, result.lines) == (True, ())


def test_a_kernel_that_nobody_has_is_not_measured(clean_host: Path) -> None:
    result = perform(Kernel("6.1.0-0-none", "#1"))
    assert result.failure is not None
    assert "There is no kernel '6.1.0-0-none'" in result.failure
    assert not result.busy
