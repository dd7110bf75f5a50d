# SPDX-License-Identifier: BSD-3-Clause
"""kickbench set-up: install the programs that trials and labs start."""

from __future__ import annotations

import os

import click

from bench_lib.settings import DATA

SCRIPT = DATA / "tools" / "set-up"
"""A shell script, because in a checkout it runs before there is a Python with kickbench."""


@click.command("set-up")
def set_up() -> None:
    """Install the programs that trials and labs need.

    These are QEMU, gdb and a few others. On Debian, Ubuntu and their derivatives this command
    installs those that are missing with apt, as root or with sudo. On other systems it prints what
    to install, and exits 1.

    \b
    Example:
      kickbench set-up && kickbench doctor
    """
    os.execvp("sh", ["sh", str(SCRIPT), "--programs"])  # noqa: S606 # an argument list is meant
