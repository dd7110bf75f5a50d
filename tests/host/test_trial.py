# SPDX-License-Identifier: BSD-3-Clause
"""Real trials: a KVM guest, a postcopy migration, a broken network."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench_lib import record
from bench_lib.deadline import Deadline
from bench_lib.guest.serial import SerialLine
from bench_lib.migration import Endpoint
from bench_lib.record import Entry, Outcome, RequestName, Role, ScenarioName
from bench_lib.settings import CHECKOUT, Settings
from bench_lib.trial.batch import NativeRunner
from bench_lib.trial.case import Case
from tests.host.conftest import Command

STOP = ("--request", "stop")


def vcpus(threads: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The threads that run a vCPU."""
    return [each for each in threads if each["role"] == Role.VCPU]


@pytest.mark.parametrize("scenario", [ScenarioName.BLACKHOLE, ScenarioName.PAUSED])
def test_stop_is_requested_while_the_guest_is_stuck_in_gup(
    kickbench: Command, scenario: ScenarioName
) -> None:
    done = kickbench("trial", "--scenario", scenario, *STOP, "-n", "2", "--json")
    assert done.returncode == 0, done.stderr
    records = json.loads(done.stdout)
    assert [each["seq"] for each in records] == [1, 2]
    for each in records:
        assert each["outage"] in {"netem", "clsact-bpf", "tbf", "tcp-reset"}
        (before,) = vcpus(each["evidence"]["before"])
        assert before["state"] in {"S", "D"}
        assert before["wchan"] == "handle_userfault"
        assert before["entry"] == Entry.GUP
        names = [stage["name"] for stage in each["stages"]]
        # The last stages, because the trial may have been staged more than once.
        assert names[-9:] == [
            "start", "guest-up", "prepare", "postcopy", "outage", "proof", "request", "evidence",
            "release",
        ]  # fmt: skip
        if each["outcome"] == Outcome.RETURNED:
            (after,) = vcpus(each["evidence"]["after"])
            assert after["entry"] != Entry.GUP
            (request,) = (stage for stage in each["stages"] if stage["name"] == "request")
            assert 0 < each["latency_ns"] <= request["end_ns"] - request["start_ns"]
        else:
            assert each["outcome"] in {Outcome.ASLEEP, Outcome.SPINNING}
            assert each["latency_ns"] is None


def test_a_trial_whose_guest_arrives_whole_is_staged_again(
    clean_host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest that gets no CPU time dirties nothing; this one is stopped at the first staging."""
    starts_pass = Endpoint.starts_pass
    starved: list[Endpoint] = []

    async def starve(side: Endpoint, number: int, deadline: Deadline) -> None:
        if not starved:
            starved.append(side)
            await side.guest.control.execute("stop", deadline=deadline)
        await starts_pass(side, number, deadline)

    monkeypatch.setattr(Endpoint, "starts_pass", starve)
    settings = Settings.from_environment()
    case = Case(ScenarioName.BLACKHOLE, RequestName.STOP)
    (made,) = NativeRunner(settings).run([case], lambda each: None)
    assert starved
    assert made.outcome is not Outcome.LOST, made.reason
    names = [stage.name for stage in made.stages]
    assert [names.count(name) for name in ("start", "release", "request")] == [2, 2, 1]


def test_stop_of_a_healthy_guest_returns(kickbench: Command) -> None:
    done = kickbench("trial", "--scenario", "idle", *STOP, "--json")
    assert done.returncode == 0, done.stderr
    (made,) = json.loads(done.stdout)
    assert made["outcome"] == Outcome.RETURNED
    assert made["outage"] is None
    assert vcpus(made["evidence"]["before"])[0]["entry"] == Entry.NONE


def test_a_record_names_its_kernel_host_and_qemu(kickbench: Command) -> None:
    kickbench("trial", "--scenario", "idle", *STOP)
    ((made,), _) = record.read(Path(".asv/records.jsonl"))
    uname = os.uname()
    assert made.kernel == record.Kernel(uname.release, uname.version)
    assert made.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert made.host == record.Host("native", "kvm", uname.nodename)
    qemu = subprocess.run(
        ["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert made.qemu is not None
    assert f" version {made.qemu}\n" in qemu
    ledger = json.loads(Path("kernels.json").read_text())
    assert [each["release"] for each in ledger["kernels"]] == [made.kernel.release]


def test_several_vcpus_are_all_proved_stuck(clean_host: Path, runtime: Path) -> None:
    shape = record.Shape(vcpus=2)
    (made,) = NativeRunner(Settings.from_environment()).run(
        [Case(ScenarioName.BLACKHOLE, RequestName.STOP, shape)], lambda record: None
    )
    assert made.outcome is not Outcome.LOST, made.reason
    assert [each.vcpu for each in made.evidence.vcpus] == [0, 1]
    assert {each.entry for each in made.evidence.vcpus} == {Entry.GUP}


def test_the_option_sets_the_deadline(kickbench: Command) -> None:
    done = kickbench("trial", "--scenario", "idle", *STOP, "--deadline", "1.5", "--json")
    assert json.loads(done.stdout)[0]["deadline_ns"] == 1_500_000_000


def test_trials_are_shown_a_line_each_and_summarized(kickbench: Command) -> None:
    done = kickbench("trial", "--scenario", "idle", *STOP, "-n", "2")
    assert [line.split(" ")[0] for line in done.stdout.splitlines()] == ["#1", "#2"]
    report = json.loads(kickbench("report", "--json").stdout)
    (row,) = report["rows"]
    assert (row["trials"], row["outcomes"]["returned"]) == (2, 2)
    assert "2 of 2 returned" in kickbench("report").stdout


def _images_with(tmp_path: Path, code: bytes) -> Path:
    """Make a folder of images in which `gup` runs `code` in real mode."""
    folder = tmp_path / "images"
    shutil.copytree(CHECKOUT / "guest-images", folder)
    firmware = bytearray(65536)
    # The reset vector has room for a jump to the start of its page (jmp -0xff3).
    firmware[0xFFF0:0xFFF3] = b"\xe9\x0d\xf0"
    firmware[0xF000 : 0xF000 + len(code)] = code
    (folder / "gup.bin").write_bytes(firmware)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[0]["sha256"] = hashlib.sha256(firmware).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


SILENT = bytes.fromhex("f4ebfd")
"""hlt, and a jump back to it."""

RESETTING = bytes.fromhex(
    "b000e670e471"  # mov $0, %al; out %al, $0x70; in $0x71, %al: the clock's seconds
    "88c3e47138d874fa"  # mov %al, %bl; in $0x71, %al; cmp %bl, %al; je to the in
    "88c3e47138d874fa"  # once more
    "b006baf90ceef4"  # mov $6, %al; mov $0xcf9, %dx; out %al, (%dx); hlt
)
"""A reset once the seconds have changed twice: QEMU 7.2 can hang at one just after its start."""


def _lost(images: Path) -> str:
    """Run a trial whose guest runs one of these images, and return why it was lost."""
    settings = dataclasses.replace(Settings.from_environment(), images=images)
    case = Case(ScenarioName.IDLE, RequestName.STOP)
    (made,) = NativeRunner(settings).run([case], lambda record: None)
    assert made.outcome is Outcome.LOST
    assert made.reason is not None
    return made.reason


@pytest.mark.usefixtures("clean_host", "runtime")
def test_a_guest_that_never_comes_up_is_a_lost_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = SerialLine.passes

    async def soon(self: SerialLine, vcpus: int, count: int, deadline: Deadline) -> None:
        await passes(self, vcpus, count, Deadline.after(0.1))

    monkeypatch.setattr(SerialLine, "passes", soon)
    reason = _lost(_images_with(tmp_path, SILENT))
    assert "Pass 2 of every vCPU of the guest was not seen" in reason


@pytest.mark.usefixtures("clean_host", "runtime")
def test_a_guest_that_resets_is_a_lost_trial(tmp_path: Path) -> None:
    reason = _lost(_images_with(tmp_path, RESETTING))
    assert "exited with status 0, probably because its guest has reset" in reason
