# SPDX-License-Identifier: BSD-3-Clause
"""The row about Linux guests."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench_lib import interrupt, ownership
from bench_lib.doctor.finding import Finding, Status
from bench_lib.errors import GuestKernelMissing, GuestNotBooted, KickbenchError
from bench_lib.host import shell
from bench_lib.kernel import guest
from bench_lib.settings import Settings
from bench_lib.trial import linux_guests

NAME = "Linux guests"

NONE = "trials with --image linux cannot be made"

BOOT_LIMIT_S = 20.0
"""How long a guest may take to boot. It takes a second or two where the processor runs guests."""


def finding(settings: Settings) -> Finding:
    """Boot a Linux guest once."""
    try:
        release = guest.find(settings).build.release
        # Use another runtime folder; see `guests.qemu`.
        with tempfile.TemporaryDirectory() as folder, ownership.measuring(Path(folder)) as run:
            took_s = interrupt.run(linux_guests.try_boot(run, settings, BOOT_LIMIT_S))
    except GuestKernelMissing as error:
        if guest.is_path(settings):
            return Finding(NAME, Status.DEGRADED, str(error), NONE)
        means = "trials with --image linux have to fetch it first"
        fix = shell.ours(f"kernels fetch {settings.guest_kernel}")
        return Finding(NAME, Status.DEGRADED, str(error), means, fix)
    except GuestNotBooted as error:
        means = "trials with --image linux need a lab: use --kernel"
        return Finding(NAME, Status.DEGRADED, str(error), means)
    except (KickbenchError, OSError) as error:
        return Finding(NAME, Status.DEGRADED, str(error), NONE)
    return Finding(NAME, Status.FINE, f"{release} boots in {took_s:.1f} s")
