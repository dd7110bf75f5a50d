# SPDX-License-Identifier: BSD-3-Clause
"""asv as its users run it, on a history of this test alone."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench_lib.host import identity
from bench_lib.kernel.ledger import Ledger, describe
from bench_lib.record import Family, Kernel, ScenarioName
from bench_lib.settings import CHECKOUT
from bench_lib.trial.case import CORE_SCENARIOS
from bench_lib.trial.scenarios.description import FUSE, SCENARIOS
from tests.conftest import HANG_S
from tests.host.conftest import Command, runner

ASV = Path(sys.executable).parent / "asv"
TAG = f"v{identity.booted().release}"
STALL = Path("benchmarks/vm_stop_stall.py")
PROBE = Path("benchmarks/kvm_run.py")
"""The benchmark that needs no guest."""

OTHER = Kernel("5.10.0-1-amd64", "#1 SMP Debian 5.10.1-1 (2021-01-01)")


@pytest.fixture
def asv(clean_host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs asv in the history, with a machine file of this test alone.

    Only one benchmark is left, because all are made in the same way.
    """
    for module in Path("benchmarks").glob("*.py"):
        if module.name not in {"__init__.py", "vm_stop.py"}:
            module.unlink()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KICKBENCH_TRIALS", "2")

    return runner(ASV)


def _results() -> list[Path]:
    return sorted(
        path for path in Path(".asv/results").glob("*/*.json") if path.name != "machine.json"
    )


def test_asv_runs_compares_shows_and_publishes(asv: Command, kickbench: Command) -> None:
    """After two runs, the point of the booted kernel is on the graph."""
    shutil.copy(CHECKOUT / PROBE, PROBE)
    for _ in range(2):
        done = asv("run")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "6/6" in done.stderr  # progress is printed while trials are made

    (result,) = _results()
    data = json.loads(result.read_text())
    assert data["params"]["os"] == "Linux"
    assert data["params"]["environment"] == "kernel-host"
    columns = data["result_columns"]
    latency = dict(zip(columns, data["results"]["vm_stop.Stop.track_latency"], strict=False))
    assert latency["params"] == [["'idle'", "'blackhole'", "'paused'"]]
    assert all(0 < value < 60 for value in latency["result"])
    assert set(data["results"]) == {
        *(f"vm_stop.Stop.track_{name}" for name in ("latency", "hung", "refused", "lost")),
        *(f"kvm_run.Wake.track_{name}" for name in ("wake", "hung")),
    }

    report = json.loads(kickbench("report", "--json").stdout)
    assert [row["trials"] for row in report["rows"]] == [4, 4, 4]

    compared = asv("compare", TAG, TAG)
    assert compared.returncode == 0
    assert "track_latency" in compared.stdout
    assert TAG in asv("show", TAG).stdout

    published = asv("publish")
    assert published.returncode == 0, published.stderr
    index = json.loads(Path(".asv/html/index.json").read_text())
    assert index["tags"] == {TAG: 0}
    graphs = list(Path(".asv/html/graphs").rglob("vm_stop.Stop.track_latency.json"))
    assert graphs
    assert all(json.loads(graph.read_text())[0][0] == 0 for graph in graphs)


def _latencies() -> dict[str, float]:
    """The latencies of `stop` in asv's result, by scenario."""
    (result,) = _results()
    data = json.loads(result.read_text())
    columns = data["results"]["vm_stop.Stop.track_latency"]
    latency = dict(zip(data["result_columns"], columns, strict=False))
    (values,) = latency["params"]
    return dict(zip(values, latency["result"], strict=True))


def _refuse(constant: str) -> None:
    """NaN and Infinity are not JSON, and pages fail to read them."""
    raise ValueError(constant)


def test_stalls_of_storage_are_kept_and_skipped_where_they_cannot_be_staged(asv: Command) -> None:
    shutil.copy(CHECKOUT / STALL, STALL)
    quick = {**os.environ, "KICKBENCH_TRIALS": "1", "KICKBENCH_DEADLINE": "1"}
    done = asv("run", "-b", "stall", env={**quick, "KICKBENCH_SET": "full"})
    assert done.returncode == 0, done.stdout + done.stderr
    full = _hung()
    here = {repr(each.value) for each, of in SCENARIOS.items() if of.needs == FUSE}
    assert {value for value, hung in full.items() if hung == 1} == here
    others = [value for value in full if value not in here]
    assert all(math.isnan(full[value]) for value in others)

    done = asv("run", "-b", "stall", env=quick)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1/1" in done.stderr  # only of the scenario of the core set
    assert {value for value, hung in _hung().items() if hung == 1} == here


def _hung() -> dict[str, float]:
    """The numbers of trials that hung, by the stall; NaN if it was skipped."""
    (result,) = _results()
    data = json.loads(result.read_text())
    numbers, ((*stalls,), *_) = data["results"]["vm_stop_stall.Stop.track_hung"][:2]
    return dict(zip(stalls, (math.nan if each is None else each for each in numbers), strict=True))


def test_a_plain_run_keeps_what_a_full_one_measured_before(asv: Command) -> None:
    full = {**os.environ, "KICKBENCH_SET": "full", "KICKBENCH_TRIALS": "1"}
    done = asv("run", "--bench", "track_latency", env=full)
    assert done.returncode == 0, done.stdout + done.stderr
    before = _latencies()
    assert list(before) == [
        repr(each.value) for each in ScenarioName if each.family is not Family.STORAGE
    ]

    done = asv("run", "--bench", "track_latency")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6/6" in done.stderr  # only of the three scenarios of the core set
    after = _latencies()
    again = {repr(each.value) for each in CORE_SCENARIOS}
    assert list(after) == list(before)
    assert {value for value in after if after[value] != before[value]} == again

    done = asv("run", "--bench", "vm_stop.*flapping")
    assert done.returncode == 1
    assert "KICKBENCH_SET=full" in done.stdout + done.stderr
    assert _latencies() == after

    # As under a new kernel without results: asv records that the others were skipped, and its
    # commands understand that.
    (result,) = _results()
    result.unlink()
    assert asv("run", "--bench", "track_latency").returncode == 0
    fresh = _latencies()
    assert {value for value in fresh if math.isfinite(fresh[value])} == again
    assert asv("compare", TAG, TAG).returncode == 0
    assert asv("publish").returncode == 0
    for path in Path(".asv/html").rglob("*.json"):
        json.loads(path.read_text(), parse_constant=_refuse)


@pytest.mark.parametrize("words", [("run", "--bench", "vm_stop"), ("publish",)])
def test_a_setting_for_another_history_than_asvs_is_refused(
    asv: Command, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Otherwise the records would be kept there, and the kernels and results here."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = asv(*words, env={**os.environ, "KICKBENCH_HISTORY": str(elsewhere)})
    assert done.returncode == 16, done.stdout + done.stderr
    assert f"KICKBENCH_HISTORY is {elsewhere}" in done.stdout + done.stderr
    assert not list(elsewhere.iterdir())
    assert not _results()


def test_a_missing_list_of_kernels_is_made_again_beside_the_records(
    asv: Command, tmp_path: Path
) -> None:
    Path("kernels.json").unlink()
    assert asv("run", "--bench", "track_latency").returncode == 0
    assert Path("kernels.json").exists()
    assert Path(".asv/records.jsonl").exists()


def test_a_range_of_the_booted_kernel_alone_is_run(asv: Command) -> None:
    Ledger(Path("kernels.json").absolute()).add(describe(OTHER))
    assert asv("run", f"v{OTHER.release}..HEAD").returncode == 0


@pytest.mark.parametrize(
    "command",
    [
        ("run", "{other}^!"),
        ("run", "{other}"),
        ("run", "..{tag}"),
        ("run", "ALL"),
        ("run", "--set-commit-hash", "{other}"),
        ("continuous", "{tag}", "{other}"),
    ],
)
def test_a_range_that_names_another_kernel_is_refused_and_changes_nothing(
    asv: Command, command: tuple[str, ...]
) -> None:
    Ledger(Path("kernels.json").absolute()).add(describe(OTHER))
    before = Path("kernels.json").read_text()
    done = asv(*(word.format(other=f"v{OTHER.release}", tag=TAG) for word in command))
    assert done.returncode == 41
    assert f"v{OTHER.release} is not the booted kernel, which is {TAG}" in done.stderr + done.stdout
    assert Path("kernels.json").read_text() == before
    assert not _results()
    assert not Path(".asv/records.jsonl").exists()


def test_an_unknown_kernel_is_refused_with_the_known_ones(asv: Command) -> None:
    done = asv("run", "v1.2.3^!")
    assert done.returncode == 1
    assert f"kernels.json has no kernel 'v1.2.3'. Its kernels are {TAG}" in (
        done.stderr + done.stdout
    )


def test_a_host_that_cannot_measure_keeps_its_good_results(asv: Command) -> None:
    assert asv("run").returncode == 0
    (result,) = _results()
    good = result.read_text()
    done = asv("run", env={**os.environ, "KICKBENCH_QEMU": "no-such-qemu"})
    assert done.returncode == 23
    assert "no-such-qemu is not installed" in done.stderr + done.stdout
    assert result.read_text() == good


def test_trials_that_fail_keep_the_good_results(asv: Command) -> None:
    """This QEMU fails only inside the benchmark's process."""
    assert asv("run").returncode == 0
    (result,) = _results()
    good = result.read_text()
    done = asv("run", env={**os.environ, "KICKBENCH_QEMU": "/bin/false"})
    assert done.returncode == 24, done.stderr
    assert "/bin/false does not answer" in done.stderr + done.stdout
    assert result.read_text() == good


@pytest.fixture
def without_end(asv: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets so many trials that they are not all made before the test ends them."""
    monkeypatch.setenv("KICKBENCH_TRIALS", "100000")


@pytest.mark.usefixtures("without_end")
def test_ctrl_c_ends_asv_with_a_sentence_and_in_order() -> None:
    with subprocess.Popen(
        [ASV, "run"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell makes background processes ignore SIGINT, and their children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        assert running.stderr is not None
        assert any("1/300000" in line for line in running.stderr)
        running.send_signal(signal.SIGINT)
        rest = running.stderr.read()
    assert running.returncode == 130, rest
    assert "Traceback" not in rest
    assert not _results()


@pytest.mark.usefixtures("without_end")
def test_the_end_of_asv_is_the_end_of_its_trials(runtime: Path) -> None:
    with subprocess.Popen(
        [ASV, "run"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        assert any("1/300000" in line for line in running.stderr)
        running.kill()
    # Its benchmark process ends in order by itself, and holds the lock until then.
    subprocess.run(["flock", str(runtime / "measuring.lock"), "true"], check=True, timeout=HANG_S)
