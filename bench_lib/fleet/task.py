# SPDX-License-Identifier: BSD-3-Clause
"""Makes the trials of one boot, for the worker of a fleet.

    python -m bench_lib.fleet.task [FILE]

FILE, or stdin without one, holds a `Work`, as `work.to_json` encodes it. After the last trial this
writes the records of the boot to stdout, one per line, or nothing if the boot failed. It keeps no
record itself: the coordinator is the only process that writes to a history.
"""

import math
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench_lib import interrupt, lock, ownership, process, record
from bench_lib.errors import (
    FetchFailed,
    GuestKernelMissing,
    InternalError,
    KickbenchError,
    WrongKernel,
)
from bench_lib.fleet.command import GRACE_S, Command
from bench_lib.fleet.work import Kind, Work, from_json
from bench_lib.guest.workloads.description import LINUX
from bench_lib.host import identity
from bench_lib.kernel import guest
from bench_lib.kernel.ledger import describe
from bench_lib.kernel.store import Bootable, Store
from bench_lib.lab import trials
from bench_lib.record import Kernel, Record
from bench_lib.settings import Settings
from bench_lib.trial import batch

FETCH_LIMIT_S = 3600.0
"""Seconds that fetching a kernel may take."""


def main() -> int:
    """Make the trials.

    :return: the exit status of an error, as for the command line; 0 even if trials were lost,
        because the records have that.
    """
    try:
        text = Path(sys.argv[1]).read_text() if sys.argv[1:] else sys.stdin.read()
        work = from_json(text, Work)
        # SIGALRM kills this process if it does not end, and no worker is left to kill it.
        signal.alarm(math.ceil(work.limit_s + GRACE_S))
        made = perform(work, Settings.from_environment())
    except KickbenchError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_status
    except Exception as error:  # noqa: BLE001  # no defect exits with the status of another error
        traceback.print_exc()
        print(InternalError.of(error), file=sys.stderr)  # noqa: T201
        return InternalError.exit_status
    sys.stdout.writelines(f"{record.to_line(each)}\n" for each in made)
    return 0


def perform(work: Work, settings: Settings) -> list[Record]:
    """Make a trial of each case of a boot, and return the records of all of them.

    :raise WrongKernel: the host has booted another kernel.
    :raise KernelError: the host cannot get the kernel for its lab.
    :raise HostBusy: another run is measuring on the host.
    :raise HostError, LabError: trials cannot be made.
    :raise Interrupted: a signal ended the run.
    """
    made: list[Record] = []
    if work.kind is Kind.HOST:
        _check_booted(work.kernel)
        batch.make(work.cases, settings, made.append)
        return made
    kernel = build(work.kernel, settings)
    if any(case.shape.image == LINUX for case in work.cases):
        _fetch_guest(settings)
    with ownership.measuring(settings.runtime, shared=True) as owner:
        boot = trials.make(owner, kernel, work.cases, settings, made.append, lambda facts: None)
        interrupt.run(boot)
    return made


def _check_booted(kernel: Kernel) -> None:
    booted = identity.booted()
    if booted != kernel:
        raise WrongKernel(
            f"This host has booted {booted.release} ({booted.version}), not {kernel.release} "
            f"({kernel.version}); boot that kernel, and the campaign goes on."
        )


def build(kernel: Kernel, settings: Settings) -> Bootable:
    """The build of a kernel in the cache. It is fetched if the cache does not have it.

    :raise FetchFailed: it cannot be fetched, or Debian has another build of this release now.
    :raise Interrupted: a signal arrived; the cache is as it was before.
    """
    cache, wanted = Store.of(settings), describe(kernel)
    found = cache.find_build(wanted)
    if found is None:
        with _fetching_alone(settings):
            found = cache.find_build(wanted)
            if found is None:
                _fetch(kernel.release, settings)
                found = cache.find_build(wanted)
    if found is None:
        raise FetchFailed(
            f"This host has no build of {kernel.release} with the version {kernel.version}, and "
            f"`kickbench kernels fetch {kernel.release}` finds another build; copy the packages of "
            "this one to the host, and run `kickbench kernels add` there."
        )
    return found


def _fetch_guest(settings: Settings) -> None:
    """Fetch the kernel of Linux guests if the cache does not have it.

    :raise GuestKernelMissing: the folder that the settings name has no build.
    :raise FetchFailed: it cannot be fetched.
    """
    with _fetching_alone(settings):
        try:
            guest.find(settings)
        except GuestKernelMissing:
            if guest.is_path(settings):
                raise
            _fetch(settings.guest_kernel, settings)


@contextmanager
def _fetching_alone(settings: Settings) -> Iterator[None]:
    """Be the only task of this host that fetches kernels.

    Two tasks that want the same kernel would fetch it twice, and the second would replace the build
    while the lab of the first reads it.

    :raise Interrupted: a signal arrived.
    """
    with interrupt.raised():
        with ownership.registry(settings.runtime):
            pass  # the folder exists from now on
        fd = lock.take(settings.runtime / "fetch.lock", os.O_RDWR | os.O_CREAT, wait=True)
        assert fd is not None
        try:
            yield
        finally:
            os.close(fd)


def _fetch(name: str, settings: Settings) -> None:
    """Run `kickbench kernels fetch`, without the measuring lock, because it may take long.

    :raise FetchFailed: the kernel cannot be fetched.
    """
    # The command adds the kernel to a list of kernels, but only the coordinator has one.
    history = {"KICKBENCH_HISTORY": str(settings.runtime / "fleet")}
    arguments = ["-m", "bench_lib.cli", "kernels", "fetch", name]
    done = Command(arguments, settings, history).wait(FETCH_LIMIT_S)
    if done.status is None:
        raise FetchFailed(f"Fetching {name} did not end within {FETCH_LIMIT_S:.0f} s.")
    if done.status != 0:
        raise FetchFailed(done.sentence or f"Fetching {name} {process.ended(done.status)}.")


if __name__ == "__main__":
    sys.exit(main())
