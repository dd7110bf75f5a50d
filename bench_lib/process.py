"""Child processes that die with their parent, can be waited for, and are ended by pidfd."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import select
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from bench_lib.deadline import Deadline
from bench_lib.errors import ProgramMissing, ToolFailed

PR_SET_PDEATHSIG = 1
CLONE_NEWNET = 0x40000000

TOOL_LIMIT_S = 30.0
"""How long ip, tc or ss may take. They answer in milliseconds; under TCG in tenths."""

DEATH_LIMIT_S = 10.0
"""How long a killed process may take to be gone; milliseconds unless the kernel has a bug."""

ATTENTIVE_S = 0.1
"""How long an answer that is timed is waited for with the event loop standing still. What comes
later may come by way of the loop, whose 0.3 ms are then less than one in three hundred."""

DEATH_S = 0.5
"""How long the exit of a process may be behind the first sign of its death."""

T = TypeVar("T")

# Loaded now, for nothing may be imported between fork and exec.
_libc = ctypes.CDLL(None, use_errno=True)


def set_network_namespace(fd: int) -> None:
    """Move the calling thread into the network namespace that `fd` refers to; setns(2)."""
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "setns")


def _dies_with(parent: int) -> Callable[[], None]:
    """What a child does before exec so that the kernel kills it when `parent` dies."""

    def prepare() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # died before prctl took effect
            os._exit(1)

    return prepare


def _cannot_start(program: str, error: OSError) -> ProgramMissing:
    if isinstance(error, FileNotFoundError):
        return ProgramMissing(f"{program} is not installed; `make bench` installs it.")
    return ProgramMissing(f"{program} cannot be started: {error.strerror}.")


class Ended(Exception):  # what happened, not an error of ours
    """A process ended. :ivar status: as in subprocess, negative for the signal that ended it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _exception(task: asyncio.Future[T]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


class Child:
    """A process of ours. Ended and reaped by `end()`, whatever state it is in."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
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
        return self._popen.wait()

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
        if not select.select([self._pidfd], [], [], limit_s)[0]:
            return None
        self._popen.wait()
        return time.monotonic_ns()

    async def during(
        self, work: Coroutine[Any, Any, T], signs: tuple[type[Exception], ...] = ()
    ) -> T:
        """Do `work` for as long as the process lives.

        :param signs: what `work` may raise because the process is dying, before its exit is seen.
        :raise Ended: the process ended before the work was done.
        """
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

        One that the kernel does not let die is left to `kickbench clean`.
        """
        if self._popen.poll() is None:
            # It leads a group of its own, whose number is its pid until it is reaped.
            os.killpg(self.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(DEATH_LIMIT_S)
        if self._popen.stdin is not None:
            with suppress(BrokenPipeError):
                self._popen.stdin.close()
        os.close(self._pidfd)


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

    :param env: added to our environment for it; the mark of a run, at the least (see `ownership`).
    :param output: file for its stdout and stderr, or a descriptor; the caller closes that.
    :param netns_fd: the network namespace to start it in.
    :param terminal_fd: a terminal, which becomes its stdin and controls its session, with it in
        the foreground.
    :raise ProgramMissing: there is no such program.
    """
    dies_with_us = _dies_with(os.getpid())

    def prepare() -> None:
        dies_with_us()
        if terminal_fd is not None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if netns_fd is not None:
            set_network_namespace(netns_fd)

    stdin = subprocess.PIPE if stdin_pipe else subprocess.DEVNULL
    if terminal_fd is not None:
        stdin = terminal_fd
    with ExitStack() as opened:
        log = opened.enter_context(output.open("ab")) if isinstance(output, Path) else output
        try:
            popen = subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=log,
                stderr=log,
                env={**os.environ, **env},
                pass_fds=pass_fds,
                start_new_session=True,
                preexec_fn=prepare,
                bufsize=0,
            )
        except OSError as error:
            raise _cannot_start(argv[0], error) from None
    child = Child(popen)
    try:
        yield child
    finally:
        child.end()


def run_tool(argv: Sequence[str], *, stdin: str = "", deadline: Deadline | None = None) -> str:
    """Run a command that answers at once (ip, tc, ss) and give what it printed.

    :raise ToolFailed: it exited with an error, whose text is in the message, or did not exit.
    :raise ProgramMissing: there is no such program.
    """
    limit_s = deadline.remaining_s if deadline else TOOL_LIMIT_S
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=limit_s,
            start_new_session=True,
            preexec_fn=_dies_with(os.getpid()),
            check=False,
        )
    except OSError as error:
        raise _cannot_start(argv[0], error) from None
    except subprocess.TimeoutExpired:
        raise ToolFailed(f"`{' '.join(argv)}` did not end within {limit_s:.0f} s.") from None
    if done.returncode != 0:
        text = " ".join((done.stderr or done.stdout).split())
        raise ToolFailed(f"`{' '.join(argv)}` failed ({done.returncode}): {text}")
    return done.stdout
