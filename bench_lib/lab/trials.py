# SPDX-License-Identifier: BSD-3-Clause
"""Trials under another kernel: a lab makes them, and this host keeps the records."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import bench_lib
from bench_lib import interrupt, libvirt, ownership, process, record
from bench_lib.errors import LabError, LabLost
from bench_lib.guest import state
from bench_lib.guest.workloads.description import LINUX
from bench_lib.host import identity, setup
from bench_lib.kernel import guest as guest_kernel
from bench_lib.kernel.store import Bootable
from bench_lib.lab import parallel, qemu, vm
from bench_lib.lab.parallel import Job
from bench_lib.lab.vm import Facts, Lab
from bench_lib.ownership import Run
from bench_lib.record import Host, ManagerName, Outcome, Record
from bench_lib.settings import Settings
from bench_lib.trial import linux_guests
from bench_lib.trial.case import Case, to_json
from bench_lib.trial.history import History
from bench_lib.units import NS_PER_S

_log = logging.getLogger(__name__)
_log.addHandler(logging.NullHandler())

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The search path of commands in a lab."""

STAGING_S = 60
"""The least number of seconds after which a trial in a lab is lost if it is not staged and proved.
Under emulation, everything takes ten times as long or longer."""

LIBVIRT_STAGING_S = 180.0
"""The same for guests that libvirt runs: on an idle host 20 s, and a minute beside other work."""

CASES = "cases.json"
"""The file in the shared folder that lists a lab's cases."""

CACHE = "cache"
"""The folder in the shared folder that is the cache of kickbench in the lab."""

SHARE_AT_LEAST = 4
"""The least number of trials per lab when several labs share a set of trials. Booting a lab takes
as long as two trials."""

BOOTS_AT_MOST = 3
"""How often a kernel is booted for one set of trials. If all these labs die, the lost trials show
it."""


def environment(settings: Settings, lab: Lab) -> dict[str, str]:
    """The environment of a command in a lab. Its history is in the lab's own memory."""
    return {
        "PATH": PATH,
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "KICKBENCH_LAB": f"{lab.facts.accelerator}:{platform.node()}",
        "KICKBENCH_HISTORY": "/tmp",  # noqa: S108  # the lab's own, which has no other users
        "KICKBENCH_QEMU": settings.qemu,
        "KICKBENCH_GUEST_KERNEL": settings.guest_kernel,
        **({"KICKBENCH_DEADLINE": str(settings.deadline_s)} if settings.deadline_given else {}),
        "KICKBENCH_STAGING": str(max(settings.staging_s, STAGING_S)),
    }


@dataclass(frozen=True)
class LabRunner:
    """A runner that makes trials under another kernel, in labs.

    :ivar on_boot: called each time a lab is up.
    :ivar jobs: the number of labs that run at once; each makes a part of the trials.
    """

    kernel: Bootable
    settings: Settings
    on_boot: Callable[[Facts], None]
    jobs: int = 1

    def run(self, cases: Sequence[Case], on_record: Callable[[Record], None]) -> list[Record]:
        """Boot the kernel, make a trial of each case, and return the records in the same order.

        If a lab dies, the trial that ran in it is lost, with the reason, and a new lab makes the
        rest. After `BOOTS_AT_MOST` labs the trials that are left are not made. Under emulation, a
        lab that did not come up counts as well; under KVM it is an error.

        :param on_record: called with each record once it is kept.
        :raise LabError: a lab did not come up, or no trial could be run in it.
        :raise Interrupted: a signal ended the run.
        """
        history = History(self.settings)
        records: list[Record] = []

        def kept(_: int, made: Record) -> None:
            history.keep(made)
            records.append(made)
            on_record(made)

        with ownership.measuring(self.settings.runtime) as owner:

            def boot(part: Sequence[Case]) -> Job:
                return partial(make, owner, self.kernel, part, self.settings)

            queue = [boot(part) for part in shares(cases, self.jobs)]
            interrupt.run(parallel.run(queue, self.jobs, kept, self.on_boot))
        return records


def shares(cases: Sequence[Case], labs: int) -> list[Sequence[Case]]:
    """Divide the cases, in order, among this many labs, or among fewer if there are few cases."""
    count = max(1, min(labs, len(cases) // SHARE_AT_LEAST))
    bounds = [len(cases) * number // count for number in range(count + 1)]
    return [cases[start:end] for start, end in itertools.pairwise(bounds)]


async def make(
    owner: Run,
    kernel: Bootable,
    cases: Sequence[Case],
    settings: Settings,
    keep: Callable[[Record], None],
    on_boot: Callable[[Facts], None],
) -> None:
    """Make a trial of each case in one lab after another, as `LabRunner.run` describes.

    :param keep: called with each record; the caller stores it.
    :raise LabError: a lab did not come up, or no trial could be run in it.
    """
    left = list(cases)
    failed: list[str] = []
    outside, version = setup.of_this_machine(), qemu.version()
    # A lab of a host without /etc/machine-id would report the UUID of its own virtual firmware.
    machine_id = identity.machine_id_if_known()

    def up(facts: Facts) -> None:
        on_boot(dataclasses.replace(facts, failed=tuple(failed)))
        failed.clear()

    def kept(made: Record) -> None:
        keep(dataclasses.replace(made, lab_setup=outside, lab_qemu=version, machine_id=machine_id))
        left.pop(0)

    for boots_left in reversed(range(BOOTS_AT_MOST)):
        try:
            await _boot(owner, kernel, list(left), settings, kept, up)
        except LabLost as error:
            # Under KVM, a lab that does not come up is the kernel's fault. An emulated lab
            # occasionally fails by itself.
            if not boots_left or qemu.accelerator() != "tcg":
                raise
            _log.warning("%s\n%s", error, "\n".join(error.console))
            failed.append(str(error))
        if not left:
            break
    else:
        _log.warning(
            "%d labs of kernel %s died, so %d of %d trials were not made.",
            BOOTS_AT_MOST,
            kernel.build.release,
            len(left),
            len(cases),
        )


async def _boot(
    owner: Run,
    kernel: Bootable,
    cases: Sequence[Case],
    settings: Settings,
    keep: Callable[[Record], None],
    on_boot: Callable[[Facts], None],
) -> None:
    """Boot one lab, and make trials in it until all are made or the lab has died.

    :raise LabLost: the lab did not come up.
    :raise LabError: a trial cannot be run in the lab.
    """
    made = 0
    stderr: list[bytes] = []
    pending = b""

    def on_output(stream: str, data: bytes) -> None:
        nonlocal pending, made
        if stream == "err":
            stderr.append(data)
            return
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            keep(record.from_line(line.decode()))
            made += 1

    share = Path(tempfile.mkdtemp(dir=owner.folder, prefix="share-"))
    # A file, because one argument of execve(2) is limited to 128 KiB.
    (share / CASES).write_text(to_json(cases))
    kept = [f"{libvirt.CACHE}/**/*.xml"]
    if linux := {case.shape for case in cases if case.shape.image == LINUX}:
        kept += [linux_guests.pattern(kernel.build.release, shape) for shape in linux]
        folder = guest_kernel.find(settings).folder
        settings = dataclasses.replace(settings, guest_kernel=str(folder))
    if any(case.manager is ManagerName.LIBVIRT for case in cases):
        staging_s = max(settings.staging_s, LIBVIRT_STAGING_S)
        settings = dataclasses.replace(settings, staging_s=staging_s)
    copy_changed(settings.cache, share / CACHE, kept)
    async with vm.booted(owner, kernel, settings, share) as lab:
        on_boot(lab.facts)
        arguments = ["-m", "bench_lib.trial", f"{qemu.SHARE}/{CASES}"]
        env = {**environment(settings, lab), "KICKBENCH_CACHE": f"{qemu.SHARE}/{CACHE}"}
        try:
            status = await lab.run_ours(arguments, env, on_output)
        except LabLost as error:
            _log.warning("%s\n%s", error, "\n".join(error.console))
            if made < len(cases):
                keep(_lost(owner, kernel, cases[made], made + 1, settings, lab, error))
            # The next lab needs it, and a file exists in the shared folder only if it is whole.
            copy_changed(share / CACHE, settings.cache, kept)
            return
    copy_changed(share / CACHE, settings.cache, kept)
    linux_guests.prune(settings.cache)
    text = b"".join(stderr).decode(errors="replace").strip()
    last = text.splitlines()[-1] if text else f"the command {process.ended(status)}"
    if made < len(cases):
        raise LabError(f"Trials cannot be run under kernel {kernel.build.release}: {last}")
    if status != 0:
        _log.warning(
            "The command that makes trials under kernel %s failed after the last trial: %s",
            kernel.build.release,
            last,
        )


def copy_changed(source: Path, target: Path, patterns: Sequence[str]) -> None:
    """Copy what labs find out, and would need half a minute under emulation to find out again.

    A file that cannot be copied is left out.

    :param patterns: the patterns of the files, relative to `source`.
    """
    for path in itertools.chain.from_iterable(map(source.glob, patterns)):
        to = target / path.relative_to(source)
        try:
            # Other labs may copy the same file at the same time.
            if not _same(path, to):
                with path.open("rb") as file, state.replacing(to) as new:
                    shutil.copyfileobj(file, new)
                shutil.copystat(path, to)
        except OSError as error:
            _log.warning("%s was not copied to %s: %s", path, target, error.strerror)


def _same(path: Path, to: Path) -> bool:
    """Return whether `to` is a copy of `path` that has not been changed.

    The size is not enough: a state that replaces a damaged one may have the same.
    """
    if not to.exists():
        return False
    here, there = path.stat(), to.stat()
    return (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns)


def _lost(
    owner: Run,
    kernel: Bootable,
    case: Case,
    seq: int,
    settings: Settings,
    lab: Lab,
    error: LabLost,
) -> Record:
    """The record of the trial that ran when a lab died."""
    return Record(
        run_id=owner.id,
        seq=seq,
        request=case.request,
        scenario=case.scenario,
        shape=case.shape,
        outcome=Outcome.LOST,
        reason=str(error),
        deadline_ns=round(case.deadline_s(settings) * NS_PER_S),
        kernel=kernel.build.kernel,
        boot_id="",
        host=Host("lab", lab.facts.accelerator, platform.node()),
        started=datetime.now(UTC).isoformat(timespec="milliseconds"),
        manager=case.manager,
        kickbench=bench_lib.__version__,
    )
