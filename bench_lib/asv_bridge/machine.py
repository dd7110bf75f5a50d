"""Registers this host with asv, where that has not been done: `python -m` this module."""

from __future__ import annotations

import platform

from asv import util
from asv.machine import Machine, MachineCollection


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


if __name__ == "__main__":
    register()
