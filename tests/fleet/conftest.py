# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of tests that simulate hosts. These need root; most need no KVM."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench_lib.settings import Settings

PROGRAMS = Path(sys.executable).parent
KICKBENCH = PROGRAMS / "kickbench"

# The tests use the cache of the user who runs them, so that kernels are fetched once.
CACHE = Settings.from_environment().cache


@pytest.fixture
def environment(history: Path) -> dict[str, str]:
    """The environment of a simulated host that has the test's history."""
    return host_environment(history)


def host_environment(history: Path) -> dict[str, str]:
    """The whole environment of a simulated host.

    :param history: the folder of its asv.conf.json and kernels.json.
    """
    return {
        "PATH": f"{PROGRAMS}:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        # Hosts share the checkout, but some have other files in the place of some modules.
        "PYTHONDONTWRITEBYTECODE": "1",
        "KICKBENCH_HISTORY": str(history),
        "KICKBENCH_CACHE": str(CACHE),
        # Emulated, a boot takes 4 s and a staging 3 s, and several times as long beside other work.
        "KICKBENCH_LAB_BOOT": "600",
        "KICKBENCH_STAGING": "90",
    }
