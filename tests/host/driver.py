"""Runs `kickbench trial` and does something to it when a stage begins.

    python driver.py SCENARIO STAGE ACTION

Runs as a process of its own, for ACTION may be its end: `killed`, `interrupted`, or the end of a
QEMU: `source`, `destination`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench_lib import process
from bench_lib.cli import main
from bench_lib.process import Child
from bench_lib.trial.timeline import Timeline

SCENARIO, STAGE, ACTION = sys.argv[1:]


def _end_qemu(role: str) -> None:
    """Kill the guest of that role and wait until the kernel says that it is dead."""
    for folder in Path("/proc").glob("[0-9]*"):
        command = (folder / "cmdline").read_bytes() if folder.exists() else b""
        if f"-{role},debug-threads".encode() in command and f"/{os.getpid()}/" in _parent(folder):
            os.kill(int(folder.name), signal.SIGKILL)
            os.waitid(os.P_PID, int(folder.name), os.WEXITED | os.WNOWAIT)


def _parent(folder: Path) -> str:
    return f"/{(folder / 'stat').read_text().rpartition(')')[2].split()[1]}/"


ACTIONS: dict[str, Callable[[], None]] = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "interrupted": lambda: os.kill(os.getpid(), signal.SIGINT),
    "terminated": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "source": lambda: _end_qemu("source"),
    "destination": lambda: _end_qemu("destination"),
}

_stage = Timeline.stage
_started = process.started


@contextmanager
def stage(timeline: Timeline, name: str) -> Iterator[None]:
    """The stage, with the action just after its begin."""
    with _stage(timeline, name):
        if name == STAGE:
            ACTIONS[ACTION]()
        yield


@contextmanager
def started(argv: list[str], **options: object) -> Iterator[Child]:
    """The process, with the action just after the first guest's start."""
    with _started(argv, **options) as child:  # type: ignore[arg-type]
        if STAGE == "first-guest" and any("loader" in word for word in argv):
            ACTIONS[ACTION]()
        yield child


Timeline.stage = stage  # type: ignore[method-assign, assignment]
process.started = started  # type: ignore[assignment]
recover = ["--recover"] if STAGE == "recovery" else []
main(["trial", "--scenario", SCENARIO, "--request", "stop", *recover])
