# SPDX-License-Identifier: BSD-3-Clause
"""Tests that use trees leave no process behind when they are killed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import CHECKOUT

STARTER = """
import subprocess
from tests.install.tree import ISOLATED
subprocess.run([*ISOLATED, "sh", "-c", "sleep 1000 & echo up; wait"])
"""


@pytest.mark.timeout(60)
def test_a_command_ends_when_what_started_it_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "up\n"
        starter.kill()
        # Every process of the command has the other end of the pipe.
        assert starter.stdout.read() == ""
