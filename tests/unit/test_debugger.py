# SPDX-License-Identifier: BSD-3-Clause
"""What is made of gdb's output, and of threads that are traced; real trials are in tests/host."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from bench_lib import ownership
from bench_lib.deadline import Deadline
from bench_lib.errors import DebuggerFailed, GuestDied
from bench_lib.guest.debugger import Gdb, Tracer, all_stopped
from bench_lib.process import Child


@pytest.mark.parametrize(
    "line, sentence",
    [
        (b'^error,msg="ptrace: Operation not permitted."', "gdb: ptrace: Operation not permitted."),
        (b'7^error,msg="No \\"x\\".\\nTry y.",code="1"', 'gdb: No "x". Try y.'),
        (b"^error", "gdb: an error without a message."),
    ],
)
def test_an_error_of_gdb_is_reported_in_gdbs_words(line: bytes, sentence: str) -> None:
    async def attach() -> None:
        output, gdb_writes = os.pipe()
        child = Child(subprocess.Popen(["true"], start_new_session=True))
        try:
            os.write(gdb_writes, b"(gdb) \n" + line + b"\n(gdb) \n")
            await Gdb(child, output).attached(Deadline.after(60))
        finally:
            child.end()
            os.close(output)
            os.close(gdb_writes)

    with pytest.raises(DebuggerFailed) as raised:
        asyncio.run(attach())
    assert str(raised.value) == sentence


ANSWER = b'^done\n(gdb) \n*stopped,reason="signal-received",signal-name="0"\n'
"""What gdb prints after an attach that succeeds."""

NO_CHILD: Any = None
"""Only output is read in these tests."""


@pytest.fixture
def pipe() -> Iterator[tuple[int, IO[bytes]]]:
    """The descriptor that gdb's output is read from, and the file that gdb writes to."""
    reading, writing = os.pipe2(os.O_NONBLOCK)
    with os.fdopen(writing, "wb", buffering=0) as gdb:
        yield reading, gdb
    os.close(reading)


def attached(gdb: Gdb, limit_s: float = 60) -> int | None:
    return asyncio.run(gdb.attached(Deadline.after(limit_s)))


@pytest.mark.parametrize("cut", range(len(ANSWER)))
def test_an_answer_may_come_in_two_pieces_with_a_deadline_between(
    pipe: tuple[int, IO[bytes]], cut: int
) -> None:
    output, writes = pipe
    gdb = Gdb(NO_CHILD, output)
    writes.write(ANSWER[:cut])
    assert attached(gdb, 0) is None
    begin_ns = time.monotonic_ns()
    writes.write(ANSWER[cut:])
    stopped_ns = attached(gdb)
    assert stopped_ns is not None
    assert stopped_ns > begin_ns


@pytest.mark.parametrize("end", range(len(ANSWER)))
def test_a_gdb_that_ends_in_its_answer_has_failed(pipe: tuple[int, IO[bytes]], end: int) -> None:
    output, writes = pipe
    writes.write(ANSWER[:end])
    writes.close()
    with pytest.raises(DebuggerFailed, match="gdb ended"):
        attached(Gdb(NO_CHILD, output))


ERROR = b'^error,msg="ptrace: No such process."\n'


@pytest.mark.parametrize("cut", range(len(ERROR)))
def test_an_error_in_two_pieces_is_an_error_once_it_is_whole(
    pipe: tuple[int, IO[bytes]], cut: int
) -> None:
    output, writes = pipe
    gdb = Gdb(NO_CHILD, output)
    writes.write(ERROR[:cut])
    assert attached(gdb, 0) is None
    writes.write(ERROR[cut:])
    with pytest.raises(DebuggerFailed, match="gdb: ptrace: No such process"):
        attached(gdb)


@pytest.mark.parametrize(
    "other",
    [
        b"\0\xff\xfe\n",
        b"\n\n\r\n",
        b'~"*stopped"\n&"^error,msg=\\"no\\""\n@"output"\n',
        b'=thread-group-added,id="i1"\n*running,thread-id="all"\n',
        b'warning: ^error\n ^error,msg="indented"\n',
        b"x" * 60_000 + b"\n",
    ],
    ids=["binary", "empty", "streams", "other records", "prose", "long"],
)
def test_other_output_of_gdb_is_not_an_answer(pipe: tuple[int, IO[bytes]], other: bytes) -> None:
    output, writes = pipe
    gdb = Gdb(NO_CHILD, output)
    writes.write(other)
    assert attached(gdb, 0) is None
    writes.write(ANSWER)
    assert attached(gdb) is not None


FakeGdb = Callable[[str], AbstractAsyncContextManager[Gdb]]


@pytest.fixture
def fake_gdb(tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGdb:
    """Starts a shell script in place of gdb."""
    program = tmp_path / "bin" / "gdb"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)

    @asynccontextmanager
    async def start(script: str) -> AsyncIterator[Gdb]:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        with ownership.measuring(runtime) as run:
            async with AsyncExitStack() as stack:
                yield await Gdb.started(run, Deadline.after(60), stack)

    return start


PROMPT = "echo '(gdb) '; read command; "
VERSION = r"""printf '%s\n' '~"GNU gdb 13.1\n"' ^done; """


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exit 1", "gdb ended"),
        ("printf '(gdb'; exit 1", "gdb ended"),
        ("echo 'error while loading shared libraries' >&2; exit 127", "gdb ended"),
        (f"{PROMPT} exit 1", "gdb ended"),
        (f"{PROMPT} printf '^don'; exit 1", "gdb ended"),
        ("""echo '^error,msg="no Python"'; read end""", "gdb: no Python"),
        (PROMPT + """echo '^error,msg="Undefined MI command"'; read end""", "gdb: Undefined MI"),
    ],
)
def test_a_gdb_that_ends_or_fails_before_it_is_up_has_failed(
    fake_gdb: FakeGdb, script: str, why: str
) -> None:
    async def main() -> None:
        async with fake_gdb(script):
            pytest.fail("gdb is up")

    with pytest.raises(DebuggerFailed, match=why):
        asyncio.run(main())


@pytest.mark.parametrize(
    ("script", "version"),
    [(VERSION, "GNU gdb 13.1"), ("echo ^done; ", "gdb")],
    ids=["with a version", "without one"],
)
def test_a_gdb_attaches_and_detaches(fake_gdb: FakeGdb, script: str, version: str) -> None:
    stopped = "read command; echo ^done; echo '*stopped'; "
    detached = """read command; [ "$command" = -target-detach ] && echo ^done; read end"""

    async def main() -> None:
        async with fake_gdb(PROMPT + script + stopped + detached) as gdb:
            assert gdb.version == version
            sent_ns = gdb.attach(4711)
            stopped_ns = await gdb.attached(Deadline.after(60))
            assert stopped_ns is not None
            assert stopped_ns > sent_ns
            await gdb.detach(Deadline.after(60))

    asyncio.run(main())


def test_a_gdb_that_has_ended_accepts_no_command(fake_gdb: FakeGdb) -> None:
    async def main() -> None:
        async with fake_gdb(PROMPT + VERSION + "exit 0") as gdb:
            with pytest.raises(DebuggerFailed, match="gdb ended"):
                await gdb.attached(Deadline.after(60))
            # Its descriptors are closed for certain once it is a zombie.
            await asyncio.to_thread(os.waitid, os.P_PID, gdb.pid, os.WEXITED | os.WNOWAIT)
            with pytest.raises(DebuggerFailed):
                gdb.attach(4711)

    asyncio.run(main())


@pytest.fixture
def sleeper() -> Iterator[int]:
    """The process and the only thread of a program that sleeps."""
    with subprocess.Popen(["sleep", "1000"]) as child:
        try:
            yield child.pid
        finally:
            child.kill()


def test_a_tracer_stops_threads_and_lets_them_go(sleeper: int) -> None:
    async def main() -> None:
        tracer = Tracer([sleeper])
        assert not all_stopped(sleeper)
        tracer.interrupt()
        times = await tracer.stopped(Deadline.after(60))
        assert times is not None
        assert times[0] < times[1]
        assert all_stopped(sleeper)
        await tracer.detach(Deadline.after(60))
        assert not all_stopped(sleeper)
        tracer.close()

    asyncio.run(main())


def test_a_tracer_of_a_thread_that_is_gone_has_failed() -> None:
    async def main() -> None:
        tracer = Tracer([2**22])
        tracer.interrupt()
        with pytest.raises(DebuggerFailed, match="cannot be traced: No such process"):
            await tracer.stopped(Deadline.after(60))
        with pytest.raises(DebuggerFailed, match="cannot be traced: No such process"):
            await tracer.detach(Deadline.after(60))

    asyncio.run(main())


def test_a_failure_that_is_awaited_once_is_not_printed_at_exit() -> None:
    printed: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, about: printed.append(about))
        tracer = Tracer([2**22])
        tracer.interrupt()
        with pytest.raises(DebuggerFailed):
            await tracer.stopped(Deadline.after(60))
        # Both futures fail one right after the other.
        await asyncio.sleep(0)
        del tracer
        gc.collect()

    asyncio.run(main())
    gc.collect()
    assert printed == []


def test_a_tracer_that_was_not_asked_to_interrupt_stops_nothing(sleeper: int) -> None:
    async def main() -> None:
        tracer = Tracer([sleeper])
        assert await tracer.stopped(Deadline.after(0)) is None
        tracer.close()
        assert not all_stopped(sleeper)

    asyncio.run(main())


def test_a_process_that_is_gone_is_not_stopped() -> None:
    with pytest.raises(GuestDied):
        all_stopped(2**22)
