# SPDX-License-Identifier: BSD-3-Clause
"""Commands for a person's shell, to be pasted as they are; kickbench itself runs none of them."""

from __future__ import annotations

import os


def as_root(command: str) -> str:
    """The command, with sudo where this user needs it."""
    return command if os.geteuid() == 0 else f"sudo {command}"


def write(value: str, path: str) -> str:
    """What writes a value to a file of the kernel's. :param path: may be a pattern."""
    return f"echo {value} | {as_root('tee')} {path}"
