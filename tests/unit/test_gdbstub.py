# SPDX-License-Identifier: BSD-3-Clause
"""What QEMU's gdbstub sends in answer to a break: in pieces, damaged, and not at all."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from bench_lib.deadline import Deadline
from bench_lib.errors import MonitorFailed
from bench_lib.guest.gdbstub import GdbStub

REPLY = b"$T05thread:01;#07"

NOW = Deadline.after(0)


class Stub:
    """The debugger's side, and QEMU's end of its connection."""

    def __init__(self) -> None:
        ours, self.qemu = socket.socketpair()
        self._ours = ours
        self.debugger = GdbStub("the guest", ours)

    def stopped(self, deadline: Deadline | None = None) -> int | None:
        """When the stop reply came. :param deadline: None for one that never passes."""
        return asyncio.run(self.debugger.stopped(deadline or Deadline.after(60)))

    def close(self) -> None:
        self._ours.close()
        self.qemu.close()


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("cut", range(1, len(REPLY)))
def test_a_stop_reply_may_come_in_two_pieces_with_a_deadline_between(stub: Stub, cut: int) -> None:
    stub.qemu.sendall(REPLY[:cut])
    assert stub.stopped(NOW) is None
    begin_ns = time.monotonic_ns()
    stub.qemu.sendall(REPLY[cut:])
    stopped_ns = stub.stopped()
    assert stopped_ns is not None
    assert stopped_ns > begin_ns


@pytest.mark.parametrize("end", range(len(REPLY)))
def test_a_connection_that_ends_before_the_reply_does_has_failed(stub: Stub, end: int) -> None:
    stub.qemu.sendall(REPLY[:end])
    stub.qemu.close()
    with pytest.raises(MonitorFailed, match="gdbstub of the guest closed its connection"):
        stub.stopped()


def test_a_reply_that_came_before_the_end_of_the_connection_counts(stub: Stub) -> None:
    stub.qemu.sendall(REPLY)
    stub.qemu.close()
    assert stub.stopped() is not None


def test_a_connection_that_breaks_has_failed(stub: Stub) -> None:
    """The other side closes with the break unread, which resets the connection."""
    stub.debugger.interrupt()
    stub.qemu.close()
    with pytest.raises(MonitorFailed, match="gdbstub of the guest"):
        stub.stopped()


@pytest.mark.parametrize(
    "other",
    [
        b"+",
        b"-",
        b"+$OK#9a",
        b"$E01#a6",
        b"$#00",
        b"$O68690a#00",
        b"%Stop:T05#9a",
        b"T05thread:01;#07",
        b"$T05thread:01;#0",
        b"$T05thread:01;#zz",
        b"\0\xff\n",
        b"x" * 10_000,
    ],
)
def test_other_data_is_not_an_answer_and_the_stop_reply_after_it_is(
    stub: Stub, other: bytes
) -> None:
    stub.qemu.sendall(other)
    # Each call reads one chunk.
    for _ in range(4):
        assert stub.stopped(NOW) is None
    stub.qemu.sendall(REPLY)
    assert stub.stopped() is not None


@pytest.mark.parametrize(
    "reply",
    [b"$S05#b8", b"$T02thread:01;#04", b"+$T05thread:p1.1;#00", REPLY + REPLY],
    ids=["without a thread", "by SIGINT", "with a wrong checksum", "twice"],
)
def test_every_stop_reply_is_an_answer(stub: Stub, reply: bytes) -> None:
    """The checksum is not checked, because a socket does not change bytes."""
    stub.qemu.sendall(reply)
    assert stub.stopped() is not None


def test_a_stop_that_was_reported_before_the_break_is_not_its_answer(stub: Stub) -> None:
    stub.qemu.sendall(REPLY)
    before_ns = time.monotonic_ns()
    sent_ns = stub.debugger.interrupt()
    assert before_ns <= sent_ns <= time.monotonic_ns()
    assert stub.qemu.recv(100) == b"\x03"
    assert stub.stopped(NOW) is None


def test_a_reply_keeps_its_time_until_the_guest_runs_again(stub: Stub) -> None:
    stub.qemu.sendall(REPLY)
    stopped_ns = stub.stopped()
    assert stopped_ns is not None
    assert stub.stopped(NOW) == stub.stopped() == stopped_ns
    stub.debugger.resume()
    assert stub.stopped(NOW) is None


def test_a_stop_that_was_read_before_the_break_is_not_its_answer(stub: Stub) -> None:
    stub.qemu.sendall(REPLY)
    assert stub.stopped() is not None
    stub.debugger.interrupt()
    assert stub.stopped(NOW) is None
    stub.qemu.sendall(REPLY)
    assert stub.stopped() is not None


def test_a_break_of_a_gdbstub_that_is_gone_has_failed(stub: Stub) -> None:
    stub.qemu.close()
    with pytest.raises(MonitorFailed, match="gdbstub of the guest"):
        stub.debugger.interrupt()


def test_a_reply_that_comes_while_it_is_waited_for_is_an_answer(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the event loop, once the time is over in which nothing else runs."""
    monkeypatch.setattr("bench_lib.guest.gdbstub.ATTENTIVE_S", 0.0)

    async def main(send: Callable[[bytes], object]) -> int | None:
        waiting = asyncio.create_task(stub.debugger.stopped(Deadline.after(60)))
        for number in range(len(REPLY)):
            await asyncio.sleep(0)
            assert not waiting.done()
            send(REPLY[number : number + 1])
        return await waiting

    assert asyncio.run(main(stub.qemu.sendall)) is not None
