# SPDX-License-Identifier: BSD-3-Clause
"""Register this host with asv, which otherwise prompts for it, or exits, before its first run."""

from __future__ import annotations

import platform
from typing import Any

from asv import util
from asv.machine import Machine, MachineCollection

_load = Machine.load.__func__


def register() -> None:
    """Register this host with asv's defaults, except that `os` has no kernel release.

    asv keeps a series for each value of `os`, so a release in it would start a new graph with every
    kernel. If the user has set `os`, it stays.
    """
    name = Machine.get_unique_machine_name()
    try:
        known = MachineCollection.load(name)
    except util.UserError:
        known = Machine.get_defaults()
    if known["os"].startswith(f"{platform.system()} "):
        known["os"] = platform.system()
    MachineCollection.save(name, known)


def _registered(cls: type, /, *arguments: object, **options: object) -> Any:
    """Load what asv knows of a machine, after this host has been registered."""
    register()
    return _load(cls, *arguments, **options)


def install() -> None:
    """Make asv register this host before it runs benchmarks."""
    Machine.load = classmethod(_registered)
