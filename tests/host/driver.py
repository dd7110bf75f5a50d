# SPDX-License-Identifier: BSD-3-Clause
"""Runs `kickbench trial` and does something to it at the start of a stage of its first trial.

    python driver.py SCENARIO STAGE ACTION [SECONDS] [ARGUMENT...]

It is a process of its own, because ACTION may end it: `killed`, `interrupted`, `terminated`. Other
actions are done to a QEMU: `killed-source`, `stopped-destination`, `held-destination`, or to the
FUSE server (`killed-store`). A QEMU that
is held survives even SIGKILL, until the stdin of this program ends. If SECONDS is above 0, every
wait after the action ends after that time. Every ARGUMENT is passed to `kickbench trial`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from bench_lib import process
from bench_lib.cli import main
from bench_lib.deadline import Deadline
from bench_lib.process import Child, child, start, tool
from bench_lib.trial.timeline import Timeline

SCENARIO, STAGE, ACTION = sys.argv[1:4]
LEFT_S = float(sys.argv[4]) if len(sys.argv) > 4 else 0
ARGUMENTS = sys.argv[5:]
HOLDER = Path(__file__).with_name("holder.py")

_stage = Timeline.stage
_started = process.started
_after = Deadline.after
_deadlines: list[Deadline] = []
_done = False


def _qemu(role: str) -> int:
    """The guest with this role. Only our children are read, because reading others may block."""
    tasks = Path("/proc/self/task").glob("*/children")
    for pid in " ".join(task.read_text() for task in tasks).split():
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        is_store = role == "store" and b"storage.fuse_server" in command
        if f"-{role},debug-threads".encode() in command or is_store:
            return int(pid)
    raise LookupError(f"There is no {role}.")


def _kill(pid: int) -> None:
    """Kill the process, and wait until it is dead."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def _stop(pid: int) -> None:
    """Stop the process, and wait until all of its threads are stopped."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)


def _hold(pid: int) -> None:
    """Keep the process from dying until the end of our stdin, which may be later than our end."""
    child.DEATH_LIMIT_S = 0.5
    holder = subprocess.Popen(
        [sys.executable, "-S", HOLDER, str(pid)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"


TO_US: dict[str, signal.Signals] = {
    "killed": signal.SIGKILL,
    "interrupted": signal.SIGINT,
    "terminated": signal.SIGTERM,
}
TO_QEMU: dict[str, Callable[[int], None]] = {
    "killed": _kill,
    "stopped": _stop,
    "held": _hold,
}


def act() -> None:
    """Do the action once; from then on no wait takes longer than LEFT_S."""
    global _done
    if _done:
        return
    _done = True
    what, _, role = ACTION.partition("-")
    if role:
        TO_QEMU[what](_qemu(role))
    else:
        os.kill(os.getpid(), TO_US[what])
    if LEFT_S:
        at_ns = _after(LEFT_S).at_ns
        for deadline in _deadlines:
            object.__setattr__(deadline, "at_ns", min(deadline.at_ns, at_ns))


def after(duration_s: float) -> Deadline:
    """Make a deadline and remember it. After the action it is at most LEFT_S away."""
    made = _after(min(duration_s, LEFT_S) if LEFT_S and _done else duration_s)
    _deadlines.append(made)
    return made


@contextmanager
def stage(timeline: Timeline, name: str) -> Iterator[None]:
    """Enter a stage, and do the action if this is its stage."""
    with _stage(timeline, name):
        if name == STAGE:
            act()
        yield


@contextmanager
def started(argv: list[str], **options: object) -> Iterator[Child]:
    """Start a process, and do the action if it is the first guest and the action is for that."""
    with _started(argv, **options) as made:  # type: ignore[arg-type]
        if STAGE == "first-guest" and any("loader" in word for word in argv):
            act()
        yield made


Timeline.stage = stage  # type: ignore[method-assign, assignment]
Deadline.after = after  # type: ignore[method-assign]
# Starting and ending programs may take as long as usual.
for module in (child, start, tool):
    module.Deadline = SimpleNamespace(after=_after)  # type: ignore[attr-defined]
process.started = started  # type: ignore[assignment]
recover = ["--recover"] if STAGE == "recovery" else []
main(["trial", "--scenario", SCENARIO, "--request", "stop", *recover, *ARGUMENTS])
