# SPDX-License-Identifier: BSD-3-Clause
"""Which boots `gate --boots-until-settled` makes."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from bench_lib import record
from bench_lib.cli import main
from bench_lib.cli import until_settled as command
from bench_lib.guest import features
from bench_lib.guest.workloads.description import shape_of
from bench_lib.kernel import guest
from bench_lib.kernel.ledger import describe
from bench_lib.kernel.store import Bootable, Store
from bench_lib.kernel.suites import Suites
from bench_lib.lab import campaign, qemu, settling
from bench_lib.lab.campaign import Campaign
from bench_lib.record import Evidence, Host, Kernel, Outcome
from bench_lib.settings import Settings
from tests.make import record as make

KERNELS = [Kernel(f"6.{number}", "#1") for number in (1, 12)]
HERE = Host("lab", qemu.accelerator(), platform.node())
BUILDS = [Bootable(describe(kernel), "somewhere", Path("/nowhere")) for kernel in KERNELS]


class Lab:
    """Makes records without booting anything. If `hangs`, the second kernel's trials hang."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, hangs: bool = True) -> None:
        self.made: list[list[tuple[str, int]]] = []
        self._hangs = hangs
        self._boots = 0
        monkeypatch.setattr(campaign, "run", self._run)

    def _run(self, plan: Campaign, settings: Settings, *_: object) -> None:
        self.made.append([(build.build.release, plan.boots) for build in plan.kernels])
        for build in plan.kernels:
            for _boot in range(plan.boots):
                self._boots += 1
                for case in plan.cases:
                    hangs = self._hangs and build is BUILDS[1] and case.scenario != "idle"
                    trial = make(
                        Outcome.ASLEEP if hangs else Outcome.RETURNED,
                        scenario=case.scenario,
                        kernel=build.build.kernel,
                    )
                    record.append(
                        settings.records,
                        dataclasses.replace(trial, boot_id=str(self._boots), host=HERE),
                    )


@pytest.mark.parametrize(
    ("most", "looks"), [(3, [3]), (6, [6]), (7, [6, 7]), (20, [6, 12, 20]), (48, [7, 14, 28, 48])]
)
def test_looks_are_few(most: int, looks: list[int]) -> None:
    assert settling.looks(most) == looks


def test_linux_guests_are_compared_by_their_program_and_kernel(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.from_environment()
    monkeypatch.setattr(guest, "find", lambda _: BUILDS[1])
    made = dataclasses.replace(
        make(), shape=shape_of("linux"), image_sha256="ab", guest_kernel=KERNELS[0]
    )
    manifest = json.loads((settings.images / "linux" / "manifest.json").read_text())
    assert settling.guests([made, made], settings) == {
        "guest image linux": ({"ab"}, manifest["sha256"]),
        "the guest kernel": ({"6.1 #1"}, "6.12 #1"),
    }


def test_both_kernels_are_booted_in_one_campaign(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(monkeypatch)
    settings = Settings.from_environment()
    for boots in (2, 2, 5):
        settling.boot(settings, BUILDS, boots, lambda _: None, lambda _: None)
    assert lab.made == [[("6.1", 2), ("6.12", 2)], [("6.1", 3), ("6.12", 3)]]


def test_the_kernel_with_fewer_boots_catches_up_first(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(monkeypatch)
    settings = Settings.from_environment()
    settling.boot(settings, BUILDS[:1], 2, lambda _: None, lambda _: None)
    settling.boot(settings, BUILDS, 3, lambda _: None, lambda _: None)
    assert lab.made[1:] == [[("6.12", 2)], [("6.1", 1), ("6.12", 1)]]


@pytest.mark.parametrize(("names", "status"), [(["6.1", "6.12"], 1), (["6.12", "6.1"], 0)])
def test_no_boots_are_made_after_a_verdict(
    history: Path, monkeypatch: pytest.MonkeyPatch, names: Sequence[str], status: int
) -> None:
    lab = Lab(monkeypatch)
    builds = dict(zip(["6.1", "6.12"], BUILDS, strict=True))
    monkeypatch.setattr(command, "bootable", lambda _, name: builds[name])
    done = CliRunner().invoke(main, ["gate", *names, "--boots-until-settled", "20"])
    assert done.exit_code == status, done.output
    assert "look 1 of 3, 6 boots of each: " in done.output
    assert len(lab.made) == 1


def test_no_more_boots_are_made_than_allowed(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three boots of each kernel settle nothing, and no more are allowed."""
    lab = Lab(monkeypatch, hangs=False)
    builds = dict(zip(["6.1", "6.12"], BUILDS, strict=True))
    monkeypatch.setattr(command, "bootable", lambda _, name: builds[name])
    done = CliRunner().invoke(main, ["gate", "6.1", "6.12", "--boots-until-settled", "3"])
    assert done.exit_code == 2, done.output
    assert lab.made == [[("6.1", 3), ("6.12", 3)]]


def test_a_limit_for_a_request_that_will_not_be_made_is_refused_before_any_boot(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(monkeypatch)
    builds = dict(zip(["6.1", "6.12"], BUILDS, strict=True))
    monkeypatch.setattr(command, "bootable", lambda _, name: builds[name])
    words = ["gate", "6.1", "6.12", "--boots-until-settled", "3", "--limit", "quit=2s"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 3
    assert "--limit names quit" in done.output
    assert not lab.made


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"qemu": "10.0.0"}, "QEMU 10.0.0"),
        ({"deadline_ns": 1}, "deadline"),
        (
            {"schema": 1, "outcome": Outcome.LOST, "latency_ns": None, "evidence": Evidence()},
            "an older kickbench recorded as lost or refused",
        ),
    ],
)
def test_records_that_differ_from_new_ones_are_refused_before_any_boot(
    history: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    what: str,
) -> None:
    lab = Lab(monkeypatch)
    made = make(kernel=KERNELS[0])
    same = dataclasses.replace(made, host=HERE, **changes)  # type: ignore[arg-type]
    settings = Settings.from_environment()
    record.append(settings.records, same)
    builds = dict(zip(["6.1", "6.12"], BUILDS, strict=True))
    monkeypatch.setattr(command, "bootable", lambda _, name: builds[name])

    async def ask(*_: object) -> object:
        return SimpleNamespace(version=made.qemu)

    monkeypatch.setattr(features, "ask", ask)
    monkeypatch.setenv("KICKBENCH_RUNTIME", str(history / "runtime"))
    done = CliRunner().invoke(main, ["gate", "6.1", "6.12", "--boots-until-settled", "3"])
    assert done.exit_code == 3, done.output
    assert what in done.output
    assert not lab.made


@pytest.fixture
def no_mirror(history: Path, monkeypatch: pytest.MonkeyPatch) -> list[Bootable]:
    """The builds in the cache, to be filled; Debian's mirror must not be asked."""

    def asked(*_: object) -> None:
        raise AssertionError("the mirror was asked")

    there: list[Bootable] = []
    monkeypatch.setenv("KICKBENCH_CACHE", str(history / "cache"))
    monkeypatch.setattr(Store, "all", lambda _: there)
    monkeypatch.setattr(Suites, "refresh", asked)
    return there


def of_stream(*releases: str) -> list[Bootable]:
    kernels = [Kernel(release, f"#1 Debian {release} (2026-01-01)") for release in releases]
    return [Bootable(describe(kernel), "somewhere", Path("/nowhere")) for kernel in kernels]


def test_a_stream_means_the_newest_recorded_kernel_with_more_boots_too(
    history: Path, monkeypatch: pytest.MonkeyPatch, no_mirror: list[Bootable]
) -> None:
    """A newer kernel is in the cache, and Debian may have an even newer one."""
    lab = Lab(monkeypatch, hangs=False)
    old, new, other = of_stream("6.1.0-9-amd64", "6.1.0-10-amd64", "6.12.94+deb12-amd64")
    no_mirror += [old, new, other]
    settings = Settings.from_environment()
    settling.boot(settings, [old, other], 1, lambda _: None, lambda _: None)
    monkeypatch.setattr(settling, "check_as_now", lambda *_: None)
    words = ["gate", "debian/6.1", "debian/6.12", "--boots-until-settled", "3"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2, done.output
    assert lab.made[1:] == [[(old.build.release, 2), (other.build.release, 2)]]
    assert "kickbench: debian/6.1 is 6.1.0-9-amd64\n" in done.stderr


def test_a_stream_without_records_means_the_newest_that_is_fetched(
    history: Path, monkeypatch: pytest.MonkeyPatch, no_mirror: list[Bootable]
) -> None:
    lab = Lab(monkeypatch, hangs=False)
    old, new, other = of_stream("6.1.0-9-amd64", "6.1.0-10-amd64", "6.12.94+deb12-amd64")
    no_mirror += [old, new, other]
    words = ["gate", "debian/6.1", "debian/6.12", "--boots-until-settled", "1"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2, done.output
    assert lab.made == [[(new.build.release, 1), (other.build.release, 1)]]
    assert "look 1 of 1, 1 boot of each" in done.stderr


def test_the_booted_kernel_cannot_be_booted(history: Path) -> None:
    done = CliRunner().invoke(main, ["gate", "booted", "6.1", "--boots-until-settled", "3"])
    assert done.exit_code == 3
    assert "The lab cannot boot `booted`" in done.output
