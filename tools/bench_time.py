# SPDX-License-Identifier: BSD-3-Clause
"""Print how long tools/bench will take. Usage: bench_time.py KERNELS, how many in the lab.

The seconds below are of two cores that emulate the lab and do nothing else; see the README. The
download of kernels is not counted, because it depends on the network.
"""

from __future__ import annotations

import sys

from bench_lib.errors import KickbenchError, KvmUnavailable
from bench_lib.host import device
from bench_lib.lab import parallel
from bench_lib.record import ScenarioName
from bench_lib.settings import Settings

ASV_S = 10.0
"""asv itself, for each kernel."""

NATIVE_S = 0.5
"""A trial under the booted kernel."""

LAB_S = 20.0
"""From the start of a lab until its first trial, and the first guest of each kind."""

LAB_TRIAL_S = 2.2
"""A trial in the lab that returns: 2.6 s, and 1 s for a guest that idles."""

HUNG_S = 1.5
"""What a trial that hangs takes beside its deadline: stacks, and late answers."""


def seconds(
    trials: int, hangs: int, kernels: int, deadline_s: float, *, native: bool, labs: int
) -> float:
    """How long it will take.

    :param trials: under each kernel.
    :param hangs: of them, under one of the kernels.
    :param kernels: in the lab.
    :param native: whether the booted kernel is measured too.
    :param labs: that run at once.
    """
    here = ASV_S + trials * NATIVE_S if native else 0.0
    lab = kernels * (ASV_S + LAB_S + trials * LAB_TRIAL_S / labs)
    return here + lab + hangs * (deadline_s + HUNG_S) / labs


def main() -> None:
    """Print the sentence."""
    # Its import reads the settings, whose errors are printed as those of the rest.
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
    # A guest that idles is not stuck.
    hangs = settings.trials * len([each for each in scenarios if each != ScenarioName.IDLE])
    total_s = seconds(
        trials, hangs, kernels, settings.deadline_s, native=native, labs=parallel.jobs(settings)
    )
    where = f"this kernel and {kernels}" if native else f"{kernels}"
    print(
        f"about {max(1, round(total_s / 60))} minutes, and the download of kernels: {trials} "
        f"trials under {where} in the lab; {hangs * settings.deadline_s:.0f} s of that are the "
        "deadlines of trials that hang"
    )


if __name__ == "__main__":
    try:
        main()
    except KickbenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
