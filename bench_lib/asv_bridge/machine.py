# SPDX-License-Identifier: BSD-3-Clause
"""Registers this host with asv, which otherwise asks about it, or ends, before its first run."""

from __future__ import annotations

import platform
from typing import Any

from asv import util
from asv.machine import Machine, MachineCollection

_load = Machine.load.__func__


def register() -> None:
    """Give asv its defaults for this host, but an `os` without the kernel's release.

    asv keeps a series of its own for each value of `os`, so a release in there would begin a new
    graph with every kernel. An `os` that somebody has chosen stays.
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
    """What asv knows of this host, or of another that it names."""
    register()
    return _load(cls, *arguments, **options)


def install() -> None:
    """Have asv register this host before it runs benchmarks."""
    Machine.load = classmethod(_registered)
