# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of tests that simulate hosts. These need root; most need no KVM."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench_lib.errors import HostError
from bench_lib.fleet.status import HostState
from bench_lib.host import device
from bench_lib.settings import Settings
from tests.conftest import CHECKOUT, NO_KVM
from tests.fleet import limits
from tests.fleet.fleet import KICKBENCH, PROGRAMS, Fleet

# The tests use the cache of the user who runs them, so that kernels are fetched once.
CACHE = Settings.from_environment().cache

KERNELS = ("debian/6.1", "debian/6.12")
NAMES = ("red", "green", "blue")
"""The hosts of the fleet of most tests. They only pretend to make trials."""


@pytest.fixture
def environment(history: Path) -> dict[str, str]:
    """The environment of a simulated host that has the test's history."""
    return {**host_environment(), "KICKBENCH_HISTORY": str(history)}


def host_environment() -> dict[str, str]:
    """The environment of a simulated host, without the folder of its history."""
    return {
        "PATH": f"{PROGRAMS}:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": os.environ.get("HOME", "/root"),
        "LC_ALL": "C.UTF-8",
        # Hosts share the checkout, but some have other files in the place of some modules.
        "PYTHONDONTWRITEBYTECODE": "1",
        "KICKBENCH_CACHE": str(CACHE),
        # Emulated, a boot takes 4 s and a staging 3 s, and several times as long beside other work.
        "KICKBENCH_LAB_BOOT": "600",
        "KICKBENCH_STAGING": "90",
    }


@pytest.fixture
def kvm() -> None:
    """Skip a test that needs KVM where there is none."""
    try:
        device.check()
    except HostError as error:
        pytest.skip(f"{NO_KVM}: {error}")


def empty_history(folder: Path) -> Path:
    """Make a history that has the kernels of the tests in its ledger, and no records."""
    folder.mkdir()
    shutil.copy(CHECKOUT / "asv.conf.json", folder)
    (folder / "kernels.json").write_text('{"schema": 1, "kernels": []}')
    done = subprocess.run(
        [KICKBENCH, "kernels", "fetch", *KERNELS],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KICKBENCH_HISTORY": str(folder), "KICKBENCH_CACHE": str(CACHE)},
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="package")
def started_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A coordinator and hosts that are on."""
    folder = tmp_path_factory.mktemp("fleet")
    history = empty_history(folder / "history")
    with Fleet(folder, history, host_environment(), coordinator={limits.PLACE: limits.FILE}) as it:
        it.start_coordinator()
        for name in NAMES:
            it.add(name)
        yield it


@pytest.fixture
def fleet(started_fleet: Fleet) -> Fleet:
    """A fleet whose hosts all wait for work, whatever the tests before have done to it."""
    it = started_fleet
    if it.status() is None:
        it.start_coordinator()
    for name in NAMES:
        member = it.members[name]
        member.behave("")
        if member.worker is None or not member.worker.runs:
            it.join(member)
    for name in NAMES:
        it.until_state(name, HostState.READY)
    return it
