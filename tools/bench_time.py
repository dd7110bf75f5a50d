# SPDX-License-Identifier: BSD-3-Clause
"""Print how long tools/bench will take.

    bench_time.py KERNELS   (the number of kernels in the lab)

The times below were measured on two otherwise idle cores that emulate the lab;
docs/get-started.md describes the measurement. The download of kernels is not counted, because it
depends on the network.
"""

from __future__ import annotations

import sys

from bench_lib.errors import KickbenchError, KvmUnavailable
from bench_lib.host import device
from bench_lib.lab import parallel
from bench_lib.record import ScenarioName
from bench_lib.settings import Settings

ASV_S = 10.0
"""Seconds that asv itself takes for each kernel."""

NATIVE_S = 0.5
"""Seconds of a trial under the booted kernel."""

LAB_S = 20.0
"""Seconds from the start of a lab until its first trial, with the extra time of the first guest of
each kind."""

LAB_TRIAL_S = 2.2
"""Seconds of a trial in the lab that returns: 2.6 with a stuck guest, and 1 with an idle one."""

HUNG_S = 1.5
"""Seconds that a trial that hangs takes after its deadline, for stacks and late answers."""


def seconds(
    trials: int, hangs: int, kernels: int, deadline_s: float, *, native: bool, labs: int
) -> float:
    """The estimated time in seconds.

    :param trials: the number of trials under each kernel.
    :param hangs: the number of trials that hang. They hang under one of the kernels only.
    :param kernels: the number of kernels in the lab.
    :param native: whether the booted kernel is measured too.
    :param labs: the number of labs that run at once.
    """
    here = ASV_S + trials * NATIVE_S if native else 0.0
    lab = kernels * (ASV_S + LAB_S + trials * LAB_TRIAL_S / labs)
    return here + lab + hangs * (deadline_s + HUNG_S) / labs


def main() -> None:
    """Print the estimate as a sentence.

    :raise KickbenchError: a setting makes no sense, or the labs do not fit into this host.
    """
    # Imported here, because the import reads the settings, whose errors are reported below.
    from bench_lib.asv_bridge.suite import CORE, FULL

    settings = Settings.from_environment()
    kernels = int(sys.argv[1])
    try:
        device.check()
        native = True
    except KvmUnavailable:
        native = False
    scenarios = FULL if settings.full else CORE
    trials = settings.trials * len(scenarios)
    # Requests to an idle guest do not hang.
    hangs = settings.trials * len([each for each in scenarios if each != ScenarioName.IDLE])
    total_s = seconds(
        trials, hangs, kernels, settings.deadline_s, native=native, labs=parallel.jobs(settings)
    )
    where = f"{kernels} kernels in the lab"
    if native:
        where = f"each of {1 + kernels} kernels: this one, and {kernels} in the lab"
    print(
        f"this takes about {max(1, round(total_s / 60))} minutes, and the time to download "
        f"kernels: {trials} trials under {where}; {hangs * settings.deadline_s:.0f} s of it are "
        "the deadlines of trials that hang"
    )


if __name__ == "__main__":
    try:
        main()
    except KickbenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
