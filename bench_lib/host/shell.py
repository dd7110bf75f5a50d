# SPDX-License-Identifier: BSD-3-Clause
"""Build commands that a user can paste into a shell; kickbench itself does not run them."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path


def as_root(command: str) -> str:
    """The command, with sudo unless this user is root."""
    return command if os.geteuid() == 0 else f"sudo {command}"


def ours(arguments: str) -> str:
    """The command of this kickbench, which may not be in the user's PATH."""
    return f"{shlex.quote(str(Path(sys.executable).parent / 'kickbench'))} {arguments}"


def write(value: str, path: str) -> str:
    """The command that writes a value to a file of the kernel.

    :param path: the file, or a pattern for several.
    """
    return f"echo {value} | {as_root('tee')} {path}"
