# SPDX-License-Identifier: BSD-3-Clause
"""Run the probe under another kernel, in a lab."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench_lib import interrupt, ownership
from bench_lib.kernel.store import Bootable
from bench_lib.lab import trials, vm
from bench_lib.lab.vm import Facts, Output
from bench_lib.settings import Settings


def run(
    kernel: Bootable,
    arguments: Sequence[str],
    settings: Settings,
    on_output: Output,
    on_boot: Callable[[Facts], None],
) -> int:
    """Boot a kernel in a lab, run `kickbench` there, and return its exit status.

    :param arguments: the arguments of `kickbench`.
    :raise LabError: the lab did not come up, or died.
    :raise Interrupted: a signal ended the run.
    """
    with ownership.measuring(settings.runtime) as owner:
        return interrupt.run(_run(owner, kernel, arguments, settings, on_output, on_boot))


async def _run(
    owner: ownership.Run,
    kernel: Bootable,
    arguments: Sequence[str],
    settings: Settings,
    on_output: Output,
    on_boot: Callable[[Facts], None],
) -> int:
    share = owner.folder / "share"
    share.mkdir()
    async with vm.booted(owner, kernel, settings, share) as lab:
        on_boot(lab.facts)
        env = {
            **trials.environment(settings, lab),
            # The probe reads the kernel's BTF from the build in the host's cache.
            "KICKBENCH_KERNEL": kernel.build.id,
            "KICKBENCH_CACHE": str(settings.cache),
        }
        return await lab.run_ours(["-m", "bench_lib.cli", *arguments], env, on_output)
