# SPDX-License-Identifier: BSD-3-Clause
"""The options that make up a guest's shape, which all commands that make trials have."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from bench_lib.cli import lab, main
from bench_lib.errors import BadShape, ImageError
from bench_lib.lab import campaign, qemu
from bench_lib.lab.campaign import Campaign
from bench_lib.record import Backing, Record, Shape
from bench_lib.trial import preflight
from bench_lib.trial.batch import NativeRunner
from bench_lib.trial.case import PV_IMAGES, Case

TRIAL = ("trial", "--scenario", "blackhole", "--request", "stop")
MATRIX = ("matrix",)
CAMPAIGN = ("lab", "campaign", "debian/6.1", "--boots", "1", "-n", "1")

WORDS = ("--vcpus", "2", "--memory", "64", "--backing", "memfd", "--cpu", "qemu64,kvm-pv-eoi=off")
SHAPE = Shape(2, 64, Backing.MEMFD, cpu="qemu64,kvm-pv-eoi=off")


@pytest.fixture
def cases(history: object, monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """The cases that a command would measure."""
    found: list[Case] = []

    def natively(self: NativeRunner, cases: Sequence[Case], on_record: object) -> list[Record]:
        found.extend(cases)
        return []

    def in_campaign(plan: Campaign, *rest: object) -> None:
        found.extend(plan.cases)

    monkeypatch.setattr(NativeRunner, "run", natively)
    monkeypatch.setattr(preflight, "lacking", lambda request, manager, lab: None)
    monkeypatch.setattr(preflight, "not_staged", lambda scenario, lab: None)
    monkeypatch.setattr(campaign, "run", in_campaign)
    build = SimpleNamespace(build=SimpleNamespace(id="a build"))
    monkeypatch.setattr(lab, "bootable", lambda settings, name: build)
    monkeypatch.setattr(qemu, "host", lambda: None)
    return found


@pytest.mark.parametrize("command", [TRIAL, MATRIX, CAMPAIGN], ids=lambda words: words[0])
def test_every_command_that_makes_trials_chooses_the_guest(
    cases: list[Case], command: tuple[str, ...]
) -> None:
    shown = CliRunner().invoke(main, [*command, *WORDS, "--image", "uaccess"])
    assert shown.exit_code == 0, shown.output
    assert {each.shape for each in cases} == {
        Shape(2, 64, Backing.MEMFD, image="uaccess", cpu="qemu64,kvm-pv-eoi=off")
    }


def test_a_matrix_of_gup_also_has_the_guests_that_share_a_page(cases: list[Case]) -> None:
    assert CliRunner().invoke(main, [*MATRIX, *WORDS]).exit_code == 0
    assert {each.shape.image for each in cases} == {"gup", *PV_IMAGES}
    assert {(each.shape.vcpus, each.shape.cpu) for each in cases} == {(2, SHAPE.cpu)}


@pytest.mark.parametrize("command", [TRIAL, MATRIX, CAMPAIGN], ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("words", "error", "sentence"),
    [
        (("--cpu", ""), BadShape, "A guest's CPU is a model of QEMU and features, such as host,"),
        (("--cpu", "host -S"), BadShape, "'host -S' is not."),
        (("--work", "idle"), BadShape, "The image gup takes no --work."),
        (("--vcpus", "0"), BadShape, "vCPUs, not 0."),
        (("--image", "gupp"), ImageError, "There is no guest image 'gupp'"),
    ],
)
def test_a_guest_that_cannot_be_is_refused_in_one_sentence(
    cases: list[Case],
    command: tuple[str, ...],
    words: tuple[str, ...],
    error: type[BadShape],
    sentence: str,
) -> None:
    shown = CliRunner().invoke(main, [*command, *words])
    assert shown.exit_code == error.exit_status
    (line,) = shown.output.splitlines()
    assert sentence in line
    assert not cases
