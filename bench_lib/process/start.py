# SPDX-License-Identifier: BSD-3-Clause
"""Starting a program that dies with us."""

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
"""Seconds that the two wrappers may take until they execute the program. Each takes a
millisecond."""

STARTS = b"kickbench: starts\n"
"""The last line that the wrappers write. It shows that nothing has failed in them."""

START = f"""
[ "$PPID" = "$1" ] || exit 1
ulimit -m "$((0x${MARK}))" || exit 1
if [ -n "$2" ]; then exec <>/proc/self/fd/0; : </dev/tty || exit 1; fi
shift 2
echo "{STARTS.decode().strip()}" >&2
exec "$@" 2>&1
"""
"""The script of the shell that executes the program. $1 is our pid, $2 is not empty if stdin has to
become the controlling terminal, and the rest is the program with its arguments. Line by line:

1. If we died before setpriv asked for the SIGKILL, no SIGKILL comes, so the program must not start.
2. The limit is the mark of the run (see `ownership`).
3. A session leader that opens a terminal gets it as its controlling terminal, if no other session
   has it. /dev/tty can be opened only by a process that has a controlling terminal.

Errors go to stderr, which is our pipe until the last line replaces it with the program's output."""


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
    folder: Path | None = None,
) -> Iterator[Child]:
    """Start a program, and end it when the context is left.

    The program runs in a session of its own, so that Ctrl-C at our terminal reaches only us, and we
    end the program in order. The kernel sends it SIGKILL when we die.

    Two wrappers come before the program. Each executes the next one, so the pid stays the same:
    setpriv(1) asks the kernel for that SIGKILL, and a shell does the rest (see `START`). Python
    code between fork and exec could do the same, but it could wait for ever for a lock that another
    thread held at the fork, and copying our page tables takes longer than both wrappers.

    :param env: variables to add to our environment; at least the mark of a run (see `ownership`).
    :param output: the file for stdout and stderr, or a descriptor, which the caller closes.
    :param netns_fd: the network namespace to start the program in.
    :param pass_fds: descriptors that the program inherits.
    :param stdin_pipe: whether stdin is a pipe (`Child.stdin`) instead of /dev/null.
    :param terminal_fd: a terminal. It becomes the program's stdin and controlling terminal, with
        the program in the foreground.
    :raise ProgramMissing: there is no such program.
    :raise NotStarted: the program was not executed; the message has the reason.
    """
    environ = {**os.environ, **env}
    _check_program(argv[0], environ)
    stdin = subprocess.PIPE if stdin_pipe else subprocess.DEVNULL
    if terminal_fd is not None:
        stdin = terminal_fd
    with ExitStack() as opened:
        log = opened.enter_context(output.open("ab")) if isinstance(output, Path) else output
        failures, their_stderr = os.pipe2(os.O_CLOEXEC)
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
                stderr=their_stderr,
                env=environ,
                pass_fds=pass_fds,
                cwd=folder,
            )
        finally:
            os.close(their_stderr)
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
    """Check that a program exists and is executable.

    :raise ProgramMissing: it does not exist, or it is not executable.
    """
    if shutil.which(program, path=environ.get("PATH")) is None:
        if Path(program).exists() and "/" in program:
            raise ProgramMissing(
                f"{program} cannot be started: it is not executable; run `chmod +x` on it."
            )
        raise _not_installed(program)


def _not_installed(program: str) -> ProgramMissing:
    return ProgramMissing(f"{program} is not installed; `kickbench set-up` installs it.")


def spawn(
    argv: Sequence[str], program: str, netns_fd: int | None, **options: Any
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own.

    :param argv: the command, which may be wrappers that execute `program`.
    :param program: the name for errors.
    :param netns_fd: the network namespace to start the command in; None for our own.
    :param options: more arguments for subprocess.Popen.
    :raise ProgramMissing: argv[0] is not installed.
    :raise NotStarted: argv[0] could not be executed, or the namespace could not be entered.
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
    """Wait until the wrappers execute the program.

    :param failures: the read end of the pipe that is the wrappers' stderr.
    :raise NotStarted: a wrapper failed; the message has what it wrote.
    """
    deadline = Deadline.after(START_LIMIT_S)
    written = b""
    while select.select([failures], [], [], deadline.remaining_s)[0]:
        data = os.read(failures, 65536)
        written += data
        if not data:
            break
    if not written.endswith(STARTS):
        text = " ".join(written.decode(errors="replace").split()).rstrip(".")
        raise NotStarted(f"{program} cannot be started: {text or 'setpriv or sh ended silently'}.")
