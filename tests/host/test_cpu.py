# SPDX-License-Identifier: BSD-3-Clause
"""The CPU that a guest is given, by either manager, and CPUs that no guest can have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench_lib.deadline import Deadline
from bench_lib.errors import BadShape
from bench_lib.guest.qemu import Guest
from bench_lib.record import SCORED, Entry, ManagerName, Outcome, RequestName, ScenarioName, Shape
from bench_lib.settings import Settings
from bench_lib.trial.batch import NativeRunner
from bench_lib.trial.case import Case
from tests.host.conftest import Command

pytestmark = pytest.mark.usefixtures("clean_host", "runtime")

FEATURE = "kvm-pv-eoi"
"""A feature that the usual CPU has."""


@pytest.mark.parametrize("manager", list(ManagerName))
@pytest.mark.parametrize(
    ("cpu", "expected"), [(None, True), (f"qemu64,-pni,{FEATURE}=off", False)], ids=str
)
def test_a_guest_has_the_cpu_of_its_shape(
    monkeypatch: pytest.MonkeyPatch, manager: ManagerName, cpu: str | None, expected: bool
) -> None:
    features: list[bool] = []
    original = Guest.vcpu_tids

    async def tids(self: Guest, deadline: Deadline) -> list[int]:
        (vcpu,) = await self.control.execute("query-cpus-fast", deadline=deadline)
        of = {"path": vcpu["qom-path"], "property": FEATURE}
        features.append(await self.control.execute("qom-get", of, deadline=deadline))
        return await original(self, deadline)

    monkeypatch.setattr(Guest, "vcpu_tids", tids)
    case = Case(ScenarioName.BLACKHOLE, RequestName.STOP, Shape(cpu=cpu), manager=manager)
    (made,) = NativeRunner(Settings.from_environment()).run([case], lambda record: None)
    assert made.outcome in SCORED, made.reason
    assert made.shape.cpu == cpu
    assert {each.entry for each in made.evidence.vcpus} == {Entry.GUP}
    assert set(features) == {expected}


@pytest.mark.parametrize(
    ("cpu", "words"),
    [
        ("nosuch", "unable to find CPU model 'nosuch'"),
        ("qemu64,nosuch=off", r"nosuch' not found"),
        ("qemu64,kvm-pv-eoi=perhaps", "expects 'on' or 'off'"),
        # QEMU refuses this one when it makes the vCPU, after its greeting.
        ("qemu64,+svm,-lm,+vmx,enforce", "Host doesn't support requested features"),
    ],
)
def test_a_cpu_that_qemu_refuses_is_reported_before_the_first_trial(cpu: str, words: str) -> None:
    cases = [Case(ScenarioName.IDLE, RequestName.STOP, Shape(cpu=each)) for each in (None, cpu)]
    made: list[object] = []
    with pytest.raises(BadShape, match=words):
        NativeRunner(Settings.from_environment()).run(cases, made.append)
    assert not made


def test_a_qemu_that_aborts_with_a_cpu_is_reported_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As `host` on a KVM that lacks one of the processor's registers."""
    program = tmp_path / "qemu"
    program.write_text(
        '#!/bin/sh\ncase "$*" in *"-cpu max"*) echo "failed to set MSR" >&2; kill -6 $$;; esac\n'
        f'exec {Settings.from_environment().qemu} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("KICKBENCH_QEMU", os.fspath(program))
    case = Case(ScenarioName.IDLE, RequestName.STOP, Shape(cpu="max"))
    with pytest.raises(BadShape, match=r"with the CPU max: failed to set MSR\. Choose another"):
        NativeRunner(Settings.from_environment()).run([case], lambda record: None)


def test_a_guest_that_can_be_given_a_cpu_answers(kickbench: Command) -> None:
    done = kickbench(
        *("trial", "--scenario", "idle", "--request", "stop"),
        *("--cpu", "qemu64,kvm-steal-time=off", "--vcpus", "2"),
    )
    assert done.returncode == 0, done.stderr
    place = "stop in idle (2 vCPUs, cpu qemu64,kvm-steal-time=off)"
    assert f"{place}: {Outcome.RETURNED}" in done.stdout
