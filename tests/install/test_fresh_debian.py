# SPDX-License-Identifier: BSD-3-Clause
"""The first command of README.md, in a fresh tree of another Debian than this host's."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

import pytest

from bench_lib import record
from bench_lib.errors import HostError
from bench_lib.host import device
from bench_lib.trial.case import CORE_SCENARIOS
from tests.conftest import CHECKOUT
from tests.install import tree
from tests.install.tree import MACHINE

pytestmark = pytest.mark.timeout(1800)

HANG_S = 1500
"""Seconds that `make bench` may take: only a hang takes as long."""

SUITES = ("bookworm", "trixie")
"""The supported releases of Debian, oldest first."""

FIRST = """
apt-get update
apt-get install --yes --no-install-recommends git make ca-certificates
git clone /repository.git kickbench
cd kickbench
make bench
"""

QUICK = {**tree.PATIENCE, "KICKBENCH_TRIALS": "2", "KICKBENCH_DEADLINE": "2"}
"""Two trials, because about one in twelve is lost in the lab under 6.1, and `make bench` fails if
all trials of a scenario are lost."""


def _other_suite() -> str:
    """The newest suite that this host does not run."""
    here = platform.freedesktop_os_release().get("VERSION_CODENAME")
    return next(suite for suite in reversed(SUITES) if suite != here)


def test_make_bench_shows_a_hang_and_a_return(tmp_path: Path) -> None:
    with tree.fresh(_other_suite(), tmp_path / "tree", MACHINE) as made:
        subprocess.run(
            ["git", "clone", "--quiet", "--bare", CHECKOUT, made.root / "repository.git"],
            check=True,
        )
        done = made.run("sh", "-ec", FIRST, env=QUICK, timeout_s=HANG_S)
        assert done.returncode == 0, done.stdout
        records = made.root / "builds" / "kickbench" / ".asv" / "records.jsonl"
        found, damaged = record.read(records)

    assert not damaged
    made_by = {(each.host.kind, each.scenario) for each in found}
    assert made_by == {(kind, scenario) for kind in _kinds() for scenario in CORE_SCENARIOS}

    # One kernel is from before FOLL_INTERRUPTIBLE and one is from after it.
    report = done.stdout.partition("bench: it took")[2]
    _, *tables = re.split(r", lab \(\w+\) on .*$", report, flags=re.MULTILINE)
    rows = [re.findall(r"^ stop +blackhole .*", each, re.MULTILINE) for each in tables]
    outcomes = [re.findall(r"asleep|returned", row) for (row,) in rows]
    assert sorted(outcomes) == [["asleep"], ["returned"]], report


def _kinds() -> set[str]:
    """Where trials can be made, in the tree as on the host: without KVM only in the lab."""
    try:
        device.check()
    except HostError:
        return {"lab"}
    return {"native", "lab"}
