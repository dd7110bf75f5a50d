# SPDX-License-Identifier: BSD-3-Clause
"""Takes the place of bench_lib/fleet/task.py on hosts that only pretend to make trials.

The host's file BEHAVIOR has what it does instead:

    sleep SECONDS   wait, and return plausible records; without the file, it waits for nothing
    hold            wait until the file has something else, and do that
    fail            fail with a sentence
"""

from __future__ import annotations

import platform
import sys
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

from bench_lib import record
from bench_lib.fleet.work import Kind, Work, from_json
from bench_lib.host import identity
from bench_lib.lab import qemu
from bench_lib.record import Host, Outcome, Record

BEHAVIOR = Path("/run/behavior")

SENTENCE = "The pretended trials fail, as they were told to."


def main() -> int:
    """Pretend to make the trials of one boot."""
    work = from_json(Path(sys.argv[1]).read_text() if sys.argv[1:] else sys.stdin.read(), Work)
    while (words := _behavior()) == ["hold"]:
        time.sleep(0.02)
    if words == ["fail"]:
        sys.stderr.write(f"{SENTENCE}\n")
        return 33
    if words[:1] == ["sleep"]:
        time.sleep(float(words[1]))
    sys.stdout.writelines(f"{line}\n" for line in lines(work, platform.node()))
    return 0


def _behavior() -> list[str]:
    return BEHAVIOR.read_text().split() if BEHAVIOR.exists() else []


def lines(work: Work, name: str) -> list[str]:
    """Plausible records of one boot.

    :param name: the name of the host.
    """
    native = work.kind is Kind.HOST
    boot_id = identity.boot_id() if native else str(uuid.uuid4())
    host = Host("native", "kvm", name) if native else Host("lab", "tcg", name)
    return [
        record.to_line(
            Record(
                run_id="0123456789ab",
                seq=seq,
                request=case.request,
                scenario=case.scenario,
                shape=case.shape,
                outcome=Outcome.RETURNED,
                latency_ns=1_000_000,
                deadline_ns=5_000_000_000,
                kernel=work.kernel,
                boot_id=boot_id,
                host=host,
                started=datetime.now(UTC).isoformat(timespec="milliseconds"),
                qemu=qemu.version(),
            )
        )
        for seq, case in enumerate(work.cases, start=1)
    ]


if __name__ == "__main__":
    sys.exit(main())
