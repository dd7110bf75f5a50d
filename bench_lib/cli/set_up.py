# SPDX-License-Identifier: BSD-3-Clause
"""kickbench set-up: install the programs that trials and labs start."""

from __future__ import annotations

import os
import sys

import click

from bench_lib.settings import DATA

SCRIPT = DATA / "tools" / "set-up"
"""A shell script, because in a checkout it runs before there is a Python with kickbench."""


@click.command("set-up")
@click.option("--libvirt", is_flag=True, help="Also install what `--manager libvirt` needs.")
def set_up(libvirt: bool) -> None:
    """Install the programs that trials and labs need.

    These are QEMU, gdb and a few others; libvirt is optional. On Debian, Ubuntu and their
    derivatives this command installs those that are missing with apt, as root or with sudo. On
    other systems it prints what to install, and exits 1.

    \b
    Examples:
      kickbench set-up && kickbench doctor
      kickbench set-up --libvirt
    """
    argv = ["sh", str(SCRIPT), "--programs", *(["--libvirt"] if libvirt else [])]
    os.execvpe("sh", argv, {**os.environ, "PYTHON": sys.executable})  # noqa: S606 # a list is meant
