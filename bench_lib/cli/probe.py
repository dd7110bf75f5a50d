# SPDX-License-Identifier: BSD-3-Clause
"""kickbench probe: what a kernel does with a stuck vCPU, without QEMU."""

from __future__ import annotations

import os
import sys

import click
import msgspec

from bench_lib import deadline, interrupt, ownership, present
from bench_lib.cli import kernels, options
from bench_lib.cli.names import completing
from bench_lib.errors import ProbeFailed
from bench_lib.host import identity, setup
from bench_lib.kernel import btf
from bench_lib.kernel.names import BOOTED
from bench_lib.kernel.store import Bootable, Store
from bench_lib.kvm import probe as kvm_probe
from bench_lib.kvm.cases import CASES, named
from bench_lib.kvm.probe import Result
from bench_lib.lab import probing
from bench_lib.record import Outcome
from bench_lib.settings import Settings


@click.command("probe", epilog=f"Cases: {', '.join(each.name for each in CASES)}.")
@options.count(200, most=None)
@click.option(
    "--case",
    "names",
    multiple=True,
    metavar="NAME",
    shell_complete=completing(each.name for each in CASES),
    help="A case of those below. Default: all. Repeatable.",
)
@options.deadline("1")
@options.as_json()
@options.kernel(default=BOOTED)
def probe(count: int, names: tuple[str, ...], limit: str, as_json: bool, kernel: str) -> None:
    """Measure without QEMU how a kernel wakes a stuck vCPU.

    The probe uses /dev/kvm, and memory whose pages do not arrive: a userfaultfd that is not read,
    or a file on a FUSE server that does not answer. Each case is one way to get stuck; `healthy` is
    a vCPU that runs, and a lower bound for the times of the other cases. A suffix is how the probe
    calls the vCPU back: SIGUSR1 without a suffix, or SIGINT, ptrace or SIGKILL. The vCPU is not
    called in `memslot`, where another thread adds a memory slot, and in `dead-server`, where the
    userfaultfd is closed.

    Times are microseconds. SIGUSR1 and SIGINT are timed until the vCPU's ioctl returns, ptrace
    until the thread has stopped, SIGKILL until the worker is reaped, `memslot` until the other
    thread's ioctl returns, and `dead-server` until the guest has read the page. A case is a number
    of wakes (-n); cases that end the worker, such as SIGKILL, make at most 8.

    \b
    Examples:
      kickbench probe
      kickbench probe --case gup-write --case healthy -n 1000
      kickbench probe --kernel debian/6.1

    Exits 0 if every case measured something, which may be a hang, and 6 if a case did not: it took
    another path than it should, or was disturbed.
    """
    cases = named(names)
    limit_s = deadline.seconds(limit)
    settings = Settings.from_environment()
    if kernel != BOOTED:
        sys.exit(_in_lab(settings, kernels.bootable(settings, kernel)))
    width = max(len(case.name) for case in cases)
    if not as_json:
        present.probe_heading(present.stdout(), width)

    def on_result(result: Result) -> None:
        if not as_json:
            present.probe_row(present.stdout(), width, result)

    with interrupt.raised(), ownership.measuring(settings.runtime) as owner:
        results = kvm_probe.run(owner, cases, count, limit_s, on_result)
    interruptible = _interruptible(settings)
    sentence = kvm_probe.verdict(results)
    if as_json:
        report = kvm_probe.Report(
            identity.booted(),
            identity.boot_id(),
            identity.this_host(settings.lab),
            setup.of_this_machine(),
            interruptible,
            sentence,
            tuple(results),
        )
        click.echo(msgspec.json.format(kvm_probe.to_json(report), indent=2).decode())
    else:
        click.echo(f"{sentence}; according to its BTF: {interruptible}")
    lost = any(each.outcome is Outcome.LOST for each in results)
    sys.exit(ProbeFailed.exit_status if lost else 0)


def _interruptible(settings: Settings) -> btf.Interruptible:
    """What the types (BTF) of the running kernel declare. In a lab they are read from the cache."""
    build = Store.of(settings).find_id(settings.kernel) if settings.kernel else None
    return build.interruptible if build else btf.booted_interruptible()


def _in_lab(settings: Settings, build: Bootable) -> int:
    """Run this command line under another kernel, without its --kernel."""
    words = iter(sys.argv[1:])
    arguments = [word for word in words if not (word == "--kernel" and next(words, None))]
    arguments = [word for word in arguments if not word.startswith("--kernel=")]

    def on_output(stream: str, data: bytes) -> None:
        os.write(1 if stream == "out" else 2, data)

    return probing.run(
        build,
        arguments,
        settings,
        on_output=on_output,
        on_boot=lambda facts: click.echo(f"kickbench: {facts}", err=True),
    )
