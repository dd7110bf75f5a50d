"""What `make bench` does when something is missing, with programs that only play theirs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "bench"

PLAYER = """#!/bin/sh
# Notes how it is called, and exits as the first of the answers says that fits and is not used up.
echo "${0##*/} $*" >>"$PLAY/calls"
while IFS=: read -r call status; do
    case "${0##*/} $*" in *"$call"*)
        sed -i "0,\\\\|^$call:|{\\\\|^$call:|d}" "$PLAY/answers"
        exit "$status";;
    esac
done <"$PLAY/answers"
"""

UNKNOWN, FAILED, NO_KVM = 43, 44, 21


class Bench:
    """A checkout with the tool alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tools").mkdir()
        shutil.copy(TOOL, folder / "tools")
        for program in (".venv/bin/kickbench", ".venv/bin/asv", ".venv/bin/python", "bin/apt-get"):
            path = folder / program
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(PLAYER)
            path.chmod(0o755)

    def run(self, *answers: tuple[str, int]) -> subprocess.CompletedProcess[str]:
        """:param answers: in turn: part of a call, and its exit status; all others succeed."""
        lines = "".join(f"{call}:{status}\n" for call, status in answers)
        (self.folder / "answers").write_text(lines)
        (self.folder / "calls").touch()
        return subprocess.run(
            [self.folder / "tools" / "bench"],
            capture_output=True,
            text=True,
            check=False,
            env={
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "PLAY": str(self.folder),
            },
        )

    def called(self, part: str) -> int:
        """How often something was called so."""
        calls = (self.folder / "calls").read_text().splitlines()
        return sum(part in call for call in calls)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_both_kernels_are_measured_and_no_list_is_read_for_it(bench: Bench) -> None:
    done = bench.run()
    assert done.returncode == 0, done.stderr
    assert bench.called("kernel-lab debian/6.1") == 2
    assert bench.called("apt-get") == 0
    assert bench.called("kickbench report") == 1


def test_a_kernel_that_apt_does_not_have_is_left_out_with_a_sentence(bench: Bench) -> None:
    done = bench.run(*[("fetch debian/6.1", UNKNOWN)] * 2)
    assert done.returncode == 0, done.stderr
    assert "bench: apt has no kernel of debian/6.1, so it is left out" in done.stdout
    assert bench.called("apt-get update") == 1
    assert bench.called("kernel-lab") == bench.called("kernel-lab debian/6.12") == 1
    assert bench.called("kickbench report") == 1


def test_a_machine_without_lists_of_packages_gets_them(bench: Bench) -> None:
    done = bench.run(("fetch debian/6.1", UNKNOWN))
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stdout
    assert bench.called("apt-get update") == 1
    assert bench.called("kernel-lab") == 2


def test_lists_that_could_not_be_read_leave_nothing_out(bench: Bench) -> None:
    done = bench.run(*[("fetch debian/6.1", UNKNOWN)] * 2, ("apt-get update", 100))
    assert done.returncode == UNKNOWN
    assert "left out" not in done.stdout
    assert bench.called("kernel-lab") == 0


@pytest.mark.parametrize(
    "call", ["fetch debian/6.1", "asv run --record-samples --bench vm_stop\\. -E kernel-lab"]
)
def test_any_other_failure_is_one(bench: Bench, call: str) -> None:
    done = bench.run((call, FAILED))
    assert done.returncode == FAILED
    assert bench.called("kickbench report") == 0


def test_a_host_without_kvm_measures_in_the_lab(bench: Bench) -> None:
    done = bench.run(("asv run", NO_KVM))
    assert done.returncode == 0, done.stderr
    assert bench.called("kernel-lab") == 2


def test_nothing_measured_is_no_success(bench: Bench) -> None:
    done = bench.run(("asv run", NO_KVM), *[("fetch debian/6.1", UNKNOWN)] * 4)
    assert done.returncode == UNKNOWN
    assert "nothing was measured" in done.stdout
    assert bench.called("kickbench report") == 0
