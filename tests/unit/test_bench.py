# SPDX-License-Identifier: BSD-3-Clause
"""What `make bench` does if something is missing, with fakes of the programs that it runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench_lib import errors
from bench_lib.errors import KickbenchError, LabUnavailable, UsageError

TOOL = Path(__file__).resolve().parents[2] / "tools" / "bench"

PLAYER = """#!/bin/sh
# Appends its command line to `calls`, and exits as the first unused answer that fits says.
echo "${0##*/} $*" >>"$PLAY/calls"
case "${0##*/} $*" in
"kickbench kernels list"*) cat "$PLAY/kernels" ;;
"python -c"*) exec python3 "$@" ;;
esac
while IFS=: read -r call status; do
    case "${0##*/} $*" in *"$call"*)
        sed -i "0,\\\\|^$call:|{\\\\|^$call:|d}" "$PLAY/answers"
        exit "$status";;
    esac
done <"$PLAY/answers"
"""

UNKNOWN, FAILED, UNUSABLE, NO_KVM, NOT_ROOT, FULL = 43, 44, 45, 21, 22, 31


class Bench:
    """A checkout that has nothing but the tool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tools").mkdir()
        shutil.copy(TOOL, folder / "tools")
        for program in ("kickbench", "asv", "python"):
            path = folder / ".venv" / "bin" / program
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(PLAYER)
            path.chmod(0o755)

    def run(
        self, *answers: tuple[str, int], more: Sequence[str] = (), cached: Sequence[object] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run the tool.

        :param answers: in turn: a part of a call, and its exit status; all other calls succeed.
        :param more: the kernels in the tool's arguments.
        :param cached: the kernels that `kernels list` prints.
        """
        lines = "".join(f"{call}:{status}\n" for call, status in answers)
        (self.folder / "answers").write_text(lines)
        (self.folder / "kernels").write_text(json.dumps(cached))
        (self.folder / "calls").touch()
        return subprocess.run(
            [self.folder / "tools" / "bench", *more],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": os.environ["PATH"], "PLAY": str(self.folder)},
        )

    def called(self, part: str) -> int:
        """The number of calls that contain `part`."""
        calls = (self.folder / "calls").read_text().splitlines()
        return sum(part in call for call in calls)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


OLD = [("fetch debian/6.1", UNKNOWN), ("fetch debian/5.10", FAILED)]
NEW = [("fetch debian/6.12", FAILED), ("fetch debian/newest", UNUSABLE)]


def test_one_kernel_of_either_side_of_the_flag_is_measured(bench: Bench) -> None:
    done = bench.run()
    assert done.returncode == 0, done.stderr
    assert bench.called("kickbench kernels fetch") == bench.called("kernel-lab") == 2
    assert bench.called("kernel-lab debian/6.1") == 2  # of which one is 6.12
    assert bench.called("kernel-lab debian/6.12") == 1
    assert bench.called("kickbench report") == 1


def test_the_next_kernel_of_that_side_is_taken_if_one_cannot_be_fetched(bench: Bench) -> None:
    done = bench.run(OLD[0], NEW[0])
    assert done.returncode == 0, done.stderr
    assert "bench: debian/6.1 is not available" in done.stdout
    assert bench.called("kernel-lab debian/5.10") == bench.called("kernel-lab debian/newest") == 1
    assert bench.called("kernel-lab") == 2


def test_a_side_without_a_kernel_is_left_out_with_a_sentence(bench: Bench) -> None:
    done = bench.run(*OLD)
    assert done.returncode == 0, done.stderr
    assert "bench: no kernel without FOLL_INTERRUPTIBLE is available" in done.stdout
    assert bench.called("kernel-lab") == bench.called("kernel-lab debian/6.12") == 1
    assert bench.called("kickbench report") == 1


def test_without_any_suite_the_cached_kernels_are_measured(bench: Bench) -> None:
    cached = [
        {"release": "5.14.0", "interruptible": "no"},
        {"release": "6.0.12", "interruptible": "no"},
        {"release": "6.17.5", "interruptible": "unknown"},
        {"release": "6.18.1", "interruptible": "yes"},
        {"release": "6.19.0", "interruptible": ""},
    ]
    done = bench.run(*OLD, *NEW, cached=cached)
    assert done.returncode == 0, done.stderr
    assert bench.called("kernel-lab v6.0.12") == bench.called("kernel-lab v6.18.1") == 1
    assert bench.called("kernel-lab") == 2


def test_kernels_that_are_asked_for_are_measured_as_well(bench: Bench) -> None:
    done = bench.run(("fetch debian/nothing", UNKNOWN), more=["debian/nothing", "debian/newest"])
    assert done.returncode == 0, done.stderr
    assert "bench: debian/nothing is not available" in done.stdout
    assert bench.called("kernel-lab debian/newest") == 1
    assert bench.called("kernel-lab") == 3


@pytest.mark.parametrize(
    "call", ["fetch debian/6.1", "asv run --record-samples --bench vm_stop\\. -E kernel-lab"]
)
def test_any_other_failure_ends_the_run(bench: Bench, call: str) -> None:
    done = bench.run((call, FULL))
    assert done.returncode == FULL
    assert bench.called("kickbench report") == 0


NATIVE_ONLY = [
    errors.KvmUnavailable,
    errors.NamespacesUnavailable,
    errors.OutageUnavailable,
    errors.PtraceForbidden,
    errors.HugepagesMissing,
    errors.UserfaultfdForbidden,
    errors.EvidenceHidden,
]


@pytest.mark.parametrize("error", NATIVE_ONLY)
def test_a_host_that_cannot_measure_its_own_kernel_measures_in_the_lab(
    bench: Bench, error: type[KickbenchError]
) -> None:
    done = bench.run(("asv run", error.exit_status))
    assert done.returncode == 0, done.stderr
    assert "cannot measure its own kernel" in done.stdout
    assert bench.called("kernel-lab") == 2


def test_a_host_that_lacks_what_labs_need_too_measures_nothing(bench: Bench) -> None:
    done = bench.run(("asv run", NOT_ROOT))
    assert done.returncode == NOT_ROOT
    assert bench.called("kernel-lab") == 0


def test_a_run_that_measured_nothing_fails(bench: Bench) -> None:
    done = bench.run(("asv run", NO_KVM), *OLD, *NEW)
    assert done.returncode == UNKNOWN
    assert "nothing was measured" in done.stdout
    assert bench.called("kickbench report") == 0


@pytest.mark.parametrize(
    "jobs, error", [("junk", UsageError), ("999999999", LabUnavailable)], ids=["junk", "too many"]
)
def test_a_setting_that_cannot_be_ends_it_with_a_sentence(
    jobs: str, error: type[KickbenchError]
) -> None:
    done = subprocess.run(
        [sys.executable, TOOL.with_name("bench_time.py"), "2"],
        env={**os.environ, "KICKBENCH_JOBS": jobs},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == error.exit_status
    assert done.stderr.startswith("bench: ")
    assert done.stderr.count("\n") == 1


def test_it_ends_if_it_cannot_estimate_its_duration(bench: Bench) -> None:
    done = bench.run(("bench_time.py", 2))
    assert done.returncode == 2
    assert "asv" not in (bench.folder / "calls").read_text()
