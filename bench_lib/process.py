# SPDX-License-Identifier: BSD-3-Clause
"""Child processes that die with their parent, can be waited for, and are ended by pidfd."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from bench_lib import libc
from bench_lib.deadline import Deadline
from bench_lib.errors import NotStarted, ProgramMissing, ToolFailed
from bench_lib.ownership import MARK

_log = logging.getLogger(__name__)

CLONE_NEWNET = 0x40000000

TOOL_LIMIT_S = 30.0
"""How long ip, tc or ss may take. They answer in milliseconds; under TCG in tenths."""

START_LIMIT_S = 30.0
"""How long the way to a program's start may take: two small programs, each a millisecond."""

DEATH_LIMIT_S = 10.0
"""How long a killed process may take to be gone; milliseconds unless the kernel has a bug."""

ATTENTIVE_S = 0.1
"""How long an answer that is timed is waited for with the event loop standing still. What comes
later may come by way of the loop, whose 0.3 ms are then less than one in three hundred."""

DEATH_S = 0.5
"""How long the exit of a process may be behind the first sign of its death."""

TRACED_POLL_S = 0.005
"""Between two looks whether a dead process may be reaped, for which there is no event."""

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

T = TypeVar("T")


def set_network_namespace(fd: int) -> None:
    """Move the calling thread into the network namespace that `fd` refers to; setns(2)."""
    if libc.LIBC.setns(fd, CLONE_NEWNET) != 0:
        raise libc.error("setns")


@contextmanager
def in_network_namespace(fd: int) -> Iterator[None]:
    """With the calling thread, and so what it starts, in a network namespace.

    :param fd: refers to the namespace.
    :raise OSError: it is none, or may not be entered.
    """
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        set_network_namespace(fd)
        try:
            yield
        finally:
            set_network_namespace(own)
    finally:
        os.close(own)


class Ended(Exception):  # what happened, not an error of ours
    """A process ended. :ivar status: as in subprocess, negative for the signal that ended it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True)
class Survivor:
    """A process that SIGKILL has not ended.

    :ivar name: as in /proc/PID/comm.
    :ivar dead: whether it only waits for being reaped.
    :ivar wchan: the function of the kernel that a thread of it sleeps in, where shown.
    """

    pid: int
    name: str
    dead: bool
    wchan: str | None

    def __str__(self) -> str:
        if self.dead:
            why = "it is dead, but has not been reaped, because another process traces it"
        elif self.wchan is None:
            why = "it is not seen to sleep"
        else:
            why = f"it sleeps in {self.wchan}"
        return f"process {self.pid} ({self.name}) survives SIGKILL; {why}"


def name_of(pid: int) -> str:
    """The name of a process, which is read without waiting for any lock that it holds."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone"


def survivor(pid: int) -> Survivor:
    """What keeps a process that was killed.

    Reads nothing that waits for a lock of the process: not even /proc/PID/stat, which on Linux 6.18
    waits for a process that is stuck in execve(2).
    """
    return Survivor(pid, name_of(pid), not lives(pid), _sleeps_in(pid))


def lives(pid: int) -> bool:
    """Whether a thread of the process is not dead; its first may be, and another one keep it."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        return not select.select([pidfd], [], [], 0)[0]
    finally:
        os.close(pidfd)


def _sleeps_in(pid: int) -> str | None:
    with suppress(OSError):
        for task in sorted(Path(f"/proc/{pid}/task").iterdir()):
            # Of a thread that runs, that is dead, or that we may not look into, this is "0".
            wchan = (task / "wchan").read_text()
            if wchan != "0":
                return wchan or None
    return None


def _exception(task: asyncio.Future[T]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


class Child:
    """A process of ours. Ended and reaped by `end()`, whatever state it is in.

    :ivar survivor: set by `end()` if the kernel did not let it die.
    """

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.survivor: Survivor | None = None
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        self.pid = popen.pid

    @property
    def stdin(self) -> IO[bytes]:
        assert self._popen.stdin is not None
        return self._popen.stdin

    @property
    def exit_status(self) -> int | None:
        """As in subprocess: None while it runs, negative for the signal that ended it."""
        return self._popen.poll()

    async def exited(self) -> int:
        """Wait for the end of the process; its exit status."""
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        # A duplicate, so that several can wait: a loop has one reader a descriptor.
        fd = os.dup(self._pidfd)
        loop.add_reader(fd, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        # One that another process traces is dead for us only when its tracer has let go of it.
        while (status := self._popen.poll()) is None:  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(TRACED_POLL_S)
        return status

    async def reaped(self, deadline: Deadline) -> int | None:
        """Wait until the process has ended and reap it.

        :return: when that was, in nanoseconds on the monotonic clock; None if the deadline passed.
        """
        # First with the event loop standing still, whose turns would be part of what is timed.
        if (at_ns := self.reaped_within(min(ATTENTIVE_S, deadline.remaining_s))) is not None:
            return at_ns
        try:
            async with asyncio.timeout(deadline.remaining_s):
                await self.exited()
        except TimeoutError:
            return None
        return time.monotonic_ns()

    def reaped_within(self, limit_s: float) -> int | None:
        """The same, blocking. :param limit_s: seconds that it may take."""
        deadline = Deadline.after(limit_s)
        if not select.select([self._pidfd], [], [], limit_s)[0]:
            return None
        if self._popen.poll() is None:  # dead, but another process traces it
            try:
                self._popen.wait(deadline.remaining_s)
            except subprocess.TimeoutExpired:
                return None
        return time.monotonic_ns()

    async def during(
        self, work: Coroutine[Any, Any, T], signs: tuple[type[Exception], ...] = ()
    ) -> T:
        """Do `work` for as long as the process lives. With one that is dead it does not begin.

        :param signs: what `work` may raise because the process is dying, before its exit is seen.
        :raise Ended: the process ended before the work was done.
        """
        if (status := self.exit_status) is not None:
            work.close()
            raise Ended(status)
        working = asyncio.ensure_future(work)
        exiting = asyncio.ensure_future(self.exited())
        try:
            await asyncio.wait({working, exiting}, return_when=asyncio.FIRST_COMPLETED)
            if working.done() and isinstance(_exception(working), signs):
                await asyncio.wait({exiting}, timeout=DEATH_S)
            # Asked, for the work may be done before the loop has looked at the pidfd.
            if (status := self.exit_status) is not None:
                raise Ended(status)
            return await working
        finally:
            for task in (working, exiting):
                task.cancel()
            await asyncio.gather(working, exiting, return_exceptions=True)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; to nobody, if the process is gone."""
        if self._popen.poll() is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def end(self) -> None:
        """Kill the process if it still runs, with all that it has started, and reap it.

        One that the kernel does not let die within `DEATH_LIMIT_S` is left to `kickbench clean`: a
        warning is logged, `survivor` says what it is, and `survivors()` lists it.
        """
        if self._popen.poll() is None:
            # It leads a group of its own, whose number is its pid until it is reaped.
            os.killpg(self.pid, signal.SIGKILL)
            if self.reaped_within(DEATH_LIMIT_S) is None:
                self.survivor = survivor(self.pid)
                _unreaped.append(self)
                _log.warning("Left to `kickbench clean`: %s.", self.survivor)
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        os.close(self._pidfd)


_unreaped: list[Child] = []
"""What could not be ended, for `survivors()`; and subprocess complains of what it forgets."""


def survivors() -> list[Survivor]:
    """Those of our processes that were killed and are still there."""
    return [survivor(child.pid) for child in _unreaped if child.exit_status is None]


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
            popen = _spawn(
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


def _spawn(
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


def run_tool(argv: Sequence[str], *, stdin: str = "", deadline: Deadline | None = None) -> str:
    """Run a command that answers at once (ip, tc, ss) and give what it printed.

    It ends by itself, so it needs no mark and no signal when we die.

    :raise ToolFailed: it exited with an error, whose text is in the message, or did not exit.
    :raise ProgramMissing: there is no such program.
    """
    return run_tools([argv], stdin=[stdin], deadline=deadline)[0]


def run_tools(
    commands: Sequence[Sequence[str]], *, stdin: Sequence[str], deadline: Deadline | None = None
) -> list[str]:
    """Run several such commands side by side; what each printed.

    :param stdin: of each; no more than a pipe holds, which is 64 KiB.
    :raise ToolFailed: one exited with an error, or did not exit; all have ended then.
    :raise ProgramMissing: there is no such program.
    """
    limit = deadline or Deadline.after(TOOL_LIMIT_S)
    limit_s = limit.remaining_s
    pipe = subprocess.PIPE
    with ExitStack() as stack:
        started = []
        for argv, text in zip(commands, stdin, strict=True):
            popen = _spawn(argv, argv[0], None, stdin=pipe, stdout=pipe, stderr=pipe)
            stack.callback(Child(popen).end)  # never waits without a limit
            # At once, so that none waits for the one before it. It fits into the pipe.
            assert popen.stdin is not None
            with suppress(BrokenPipeError), popen.stdin as theirs:
                theirs.write(text.encode())
            popen.stdin = None
            started.append(popen)
        printed = []
        failures = []
        for argv, popen in zip(commands, started, strict=True):
            name = f"`{' '.join(argv)}`"
            try:
                output, errors = popen.communicate(timeout=limit.remaining_s)
            except subprocess.TimeoutExpired:
                failures.append(f"{name} did not end within {limit_s:.0f} s.")
                continue
            if popen.returncode != 0:
                text = " ".join((errors or output).decode(errors="replace").split())
                failures.append(f"{name} failed ({popen.returncode}): {text}")
            printed.append(output.decode(errors="replace"))
    if failures:
        raise ToolFailed(failures[0])
    return printed
