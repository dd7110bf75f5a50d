# SPDX-License-Identifier: BSD-3-Clause
"""Start a program so that it dies with us."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from bench_lib.deadline import Deadline
from bench_lib.errors import NotStarted, ProgramMissing
from bench_lib.ownership import MARK
from bench_lib.process.child import Child
from bench_lib.process.namespace import in_network_namespace

START_LIMIT_S = 30.0
"""How long the way to a program's start may take: two small programs, each a millisecond."""

STARTS = b"kickbench: starts\n"
"""The last that the way to a program's start writes: nothing of it has failed."""

START = f"""
[ "$PPID" = "$1" ] || exit 1
ulimit -m "$((0x${MARK}))" || exit 1
if [ -n "$2" ]; then exec <>/proc/self/fd/0; : </dev/tty || exit 1; fi
shift 2
echo "{STARTS.decode().strip()}" >&2
exec "$@" 2>&1
"""
"""What a shell does on the way to a program: $1 is our pid, $2 is not empty if stdin is to be its
terminal, and then comes the program. Line by line:

We may have died before the kernel was asked to kill the program when we do; then it never starts.
The mark of the run (see `ownership`). A leader of a session gets the terminal that it opens, if no
other session has it; /dev/tty can be opened by those that have one. What fails is written to
stderr, which is ours until the program's begins."""


@contextmanager
def started(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    output: Path | int,
    netns_fd: int | None = None,
    pass_fds: Sequence[int] = (),
    stdin_pipe: bool = False,
    terminal_fd: int | None = None,
) -> Iterator[Child]:
    """Run a program beside us; it is ended when the context is left.

    It gets a session of its own, so that Ctrl-C at a terminal reaches only us and we end it in
    order, and SIGKILL when we die.

    The way there is two small programs, each of which executes the next, so that the pid stays:
    setpriv(1) asks for that SIGKILL, and a shell does the rest (see `START`). Code of ours between
    fork and exec would do it too, but may wait for ever for a lock that another thread had when we
    forked; and copying our page tables takes longer than both programs.

    :param env: added to our environment for it; the mark of a run, at the least (see `ownership`).
    :param output: file for its stdout and stderr, or a descriptor; the caller closes that.
    :param netns_fd: the network namespace to start it in.
    :param terminal_fd: a terminal, which becomes its stdin and controls its session, with it in
        the foreground.
    :raise ProgramMissing: there is no such program.
    :raise NotStarted: it cannot be started as it should be; the sentence says why.
    """
    environ = {**os.environ, **env}
    _check_program(argv[0], environ)
    stdin = subprocess.PIPE if stdin_pipe else subprocess.DEVNULL
    if terminal_fd is not None:
        stdin = terminal_fd
    with ExitStack() as opened:
        log = opened.enter_context(output.open("ab")) if isinstance(output, Path) else output
        failures, theirs = os.pipe2(os.O_CLOEXEC)
        opened.callback(os.close, failures)
        try:
            popen = spawn(
                [
                    *("setpriv", "--pdeathsig", "KILL", "--"),
                    *("sh", "-c", START, "sh", str(os.getpid())),
                    "" if terminal_fd is None else "terminal",
                    *argv,
                ],
                argv[0],
                netns_fd,
                stdin=stdin,
                stdout=log,
                stderr=theirs,
                env=environ,
                pass_fds=pass_fds,
            )
        finally:
            os.close(theirs)
        child = Child(popen)
        try:
            _check_start(argv[0], failures)
        except BaseException:
            child.end()
            raise
    try:
        yield child
    finally:
        child.end()


def _check_program(program: str, environ: Mapping[str, str]) -> None:
    """:raise ProgramMissing: there is none of that name, or it may not be executed."""
    if shutil.which(program, path=environ.get("PATH")) is None:
        if Path(program).exists() and "/" in program:
            raise ProgramMissing(f"{program} cannot be started: it may not be executed.")
        raise _not_installed(program)


def _not_installed(program: str) -> ProgramMissing:
    return ProgramMissing(f"{program} is not installed; `kickbench set-up` installs it.")


def spawn(
    argv: Sequence[str], program: str, netns_fd: int | None, **options: Any
) -> subprocess.Popen[bytes]:
    """Start what leads to `program`, in a session of its own and in that network namespace.

    :raise ProgramMissing: the first program on the way is not there.
    :raise NotStarted: it is, or may not be, something else.
    """
    try:
        with nullcontext() if netns_fd is None else in_network_namespace(netns_fd):
            return subprocess.Popen(argv, start_new_session=True, bufsize=0, **options)
    except FileNotFoundError:
        raise _not_installed(argv[0]) from None
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise NotStarted(f"{program} cannot be started: {error.strerror}{where}.") from None


def _check_start(program: str, failures: int) -> None:
    """Wait until the program is about to be executed.

    :param failures: the reading end of what the way there writes its failures to.
    :raise NotStarted: with what was written.
    """
    deadline = Deadline.after(START_LIMIT_S)
    said = b""
    while select.select([failures], [], [], deadline.remaining_s)[0]:
        data = os.read(failures, 65536)
        said += data
        if not data:
            break
    if not said.endswith(STARTS):
        text = " ".join(said.decode(errors="replace").split()).rstrip(".")
        raise NotStarted(f"{program} cannot be started: {text or 'the way there has ended'}.")
