"""What has to be true of a host before any trial, checked in a moment."""

from __future__ import annotations

import os
import shutil

from bench_lib.errors import NotRoot, ProgramMissing
from bench_lib.kvm import device
from bench_lib.settings import Settings

TOOLS = ("ip", "tc", "ss")


def check(settings: Settings) -> None:
    """Refuse a host on which no trial could succeed.

    :raise HostError: the class and the sentence say what is missing.
    """
    device.check()
    if os.geteuid() != 0:
        raise NotRoot(
            "Trials make network namespaces and read kernel stacks, which needs root: "
            "run this with sudo."
        )
    for program in (settings.qemu, *TOOLS):
        if shutil.which(program) is None:
            raise ProgramMissing(f"{program} is not installed; `make bench` installs it.")
