# SPDX-License-Identifier: BSD-3-Clause
"""Trials under another kernel: asked for here, made in a lab, kept here."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import bench_lib
from bench_lib import interrupt, ownership, record
from bench_lib.errors import LabError, LabLost
from bench_lib.host import setup
from bench_lib.kernel.store import Bootable
from bench_lib.lab import parallel, vm
from bench_lib.lab.parallel import Work
from bench_lib.lab.vm import Facts, Lab
from bench_lib.ownership import Run
from bench_lib.record import Host, Outcome, Record
from bench_lib.settings import Settings
from bench_lib.trial.case import Case, to_json
from bench_lib.trial.history import History

_log = logging.getLogger(__name__)
_log.addHandler(logging.NullHandler())

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

STAGING_S = 60
"""Seconds until a trial in a lab is lost that is not staged and proved; under emulation all takes
ten times as long and more."""


CASES = "cases.json"

SHARE_AT_LEAST = 4
"""Trials that a lab is booted for where several share them; a boot takes as long as two."""

BOOTS_AT_MOST = 3
"""How often a kernel is booted for one set of trials. A kernel whose labs all die is told of by
the trials that were lost."""


def environment(settings: Settings, lab: Lab) -> dict[str, str]:
    """Variables of a command in the lab. What it keeps, it keeps in the lab's own memory."""
    return {
        "PATH": PATH,
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "KICKBENCH_LAB": f"{lab.facts.accelerator}:{platform.node()}",
        "KICKBENCH_HISTORY": "/tmp",  # noqa: S108  # of the lab, where nobody else is
        "KICKBENCH_QEMU": settings.qemu,
        "KICKBENCH_DEADLINE": str(settings.deadline_s),
        "KICKBENCH_STAGING": str(max(settings.staging_s, STAGING_S)),
    }


@dataclass(frozen=True)
class LabRunner:
    """Makes trials under another kernel, in labs.

    :ivar on_boot: called each time a lab is up.
    :ivar jobs: how many labs run at once; each makes a part of the trials.
    """

    kernel: Bootable
    settings: Settings
    on_boot: Callable[[Facts], None]
    jobs: int = 1

    def run(self, cases: Sequence[Case], on_record: Callable[[Record], None]) -> list[Record]:
        """Boot the kernel and make a trial of each of `cases` under it; records in this order.

        If the lab dies, the trial that ran is lost, with the reason, and the next is made in a new
        one, until `BOOTS_AT_MOST` have died or, under emulation, not come up.

        :param on_record: called with each record once it is kept.
        :raise LabError: the lab did not come up, or no trial could be run in it.
        :raise Interrupted: by a signal.
        """
        history = History(self.settings)
        records: list[Record] = []

        def kept(_: int, made: Record) -> None:
            history.keep(made)
            records.append(made)
            on_record(made)

        with ownership.measuring(self.settings.runtime) as owner:

            def boot(part: Sequence[Case]) -> Work:
                return partial(make, owner, self.kernel, part, self.settings)

            works = [boot(part) for part in shares(cases, self.jobs)]
            interrupt.run(parallel.run(works, self.jobs, kept, self.on_boot))
        return records


def shares(cases: Sequence[Case], labs: int) -> list[Sequence[Case]]:
    """The cases in order, divided among so many labs, or fewer if there are few."""
    count = max(1, min(labs, len(cases) // SHARE_AT_LEAST))
    bounds = [len(cases) * number // count for number in range(count + 1)]
    return [cases[begin:end] for begin, end in itertools.pairwise(bounds)]


async def make(
    owner: Run,
    kernel: Bootable,
    cases: Sequence[Case],
    settings: Settings,
    keep: Callable[[Record], None],
    on_boot: Callable[[Facts], None],
) -> None:
    """The same for a caller that keeps the records itself.

    :param keep: called with each record, as it is made.
    """
    left = list(cases)
    failed: list[str] = []
    outside, qemu = setup.of_this_machine(), vm.qemu_version()

    def up(facts: Facts) -> None:
        on_boot(dataclasses.replace(facts, failed=tuple(failed)))
        failed.clear()

    def kept(made: Record) -> None:
        keep(dataclasses.replace(made, lab_setup=outside, lab_qemu=qemu))
        left.pop(0)

    for boots_left in reversed(range(BOOTS_AT_MOST)):
        try:
            await _boot(owner, kernel, list(left), settings, kept, up)
        except LabLost as error:
            # One that does not come up is the kernel's fault where KVM runs it. Emulated ones
            # fail now and then by themselves.
            if not boots_left or vm.accelerator() != "tcg":
                raise
            _log.warning("%s\n%s", error, "\n".join(error.console))
            failed.append(str(error))
        if not left:
            break
    else:
        _log.warning(
            "%d labs of kernel %s died, so %d of %d trials are not made.",
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
    """Make trials of `cases` until all are made or the lab has died."""
    made = 0
    said: list[bytes] = []
    pending = b""

    def on_output(stream: str, data: bytes) -> None:
        nonlocal pending, made
        if stream == "err":
            said.append(data)
            return
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            keep(record.from_line(line.decode()))
            made += 1

    share = Path(tempfile.mkdtemp(dir=owner.folder, prefix="share-"))
    # Not as an argument, which may be no longer than 128 KiB.
    (share / CASES).write_text(to_json(cases))
    async with vm.booted(owner, kernel, settings, share) as lab:
        on_boot(lab.facts)
        arguments = ["-m", "bench_lib.trial", f"{vm.SHARE}/{CASES}"]
        try:
            status = await lab.run_ours(arguments, environment(settings, lab), on_output)
        except LabLost as error:
            _log.warning("%s\n%s", error, "\n".join(error.console))
            if made < len(cases):
                keep(_lost(owner, kernel, cases[made], made + 1, settings, lab, error))
            return
    text = b"".join(said).decode(errors="replace").strip()
    last = text.splitlines()[-1] if text else f"the command {vm.ended(status)}"
    if made < len(cases):
        raise LabError(f"Under kernel {kernel.build.release} trials cannot be run: {last}")
    if status != 0:
        _log.warning("After the last trial under kernel %s: %s", kernel.build.release, last)


def _lost(
    owner: Run,
    kernel: Bootable,
    case: Case,
    seq: int,
    settings: Settings,
    lab: Lab,
    error: LabLost,
) -> Record:
    """The record of the trial that a lab died in."""
    return Record(
        run_id=owner.id,
        seq=seq,
        request=case.request,
        scenario=case.scenario,
        shape=case.shape,
        outcome=Outcome.LOST,
        reason=str(error),
        deadline_ns=round(settings.deadline_s * 1e9),
        kernel=kernel.build.kernel,
        boot_id="",
        host=Host("lab", lab.facts.accelerator, platform.node()),
        started=datetime.now(UTC).isoformat(timespec="milliseconds"),
        manager=case.manager,
        kickbench=bench_lib.__version__,
    )
