# SPDX-License-Identifier: BSD-3-Clause
import asyncio
import socket
import threading
import time
from collections.abc import Callable

import pytest

from bench_lib.deadline import Deadline
from bench_lib.errors import MonitorFailed
from bench_lib.guest import request_line
from bench_lib.guest.request_line import Answer, RequestLine

EVENT = b'{"event": "STOP"}\n'
REPLY = b'{"return": {}}\n'


@pytest.fixture(params=[60.0, 0.0], ids=["attentive", "by-the-loop"])
def attentive(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to wait for a reply."""
    monkeypatch.setattr(request_line, "ATTENTIVE_S", request.param)


def _ask(
    peer: Callable[[socket.socket], None], limit_s: float = 60.0, times: int = 1
) -> Answer | None:
    """Make requests to a QEMU that behaves like `peer` after its greeting; the last answer.

    QEMU is in a thread of its own, because the line may block its thread.
    """
    ours, theirs = socket.socketpair()

    def qemu() -> None:
        theirs.sendall(b'{"QMP": {}}\n')
        assert b"qmp_capabilities" in theirs.recv(1000)
        theirs.sendall(REPLY)
        peer(theirs)

    async def main() -> Answer | None:
        line = RequestLine("test", ours)
        await line.connect(Deadline.after(60))
        answer = None
        for _ in range(times):
            line.send("stop")
            answer = await line.answer(Deadline.after(limit_s))
        return answer

    thread = threading.Thread(target=qemu)
    thread.start()
    try:
        with ours:
            return asyncio.run(main())
    finally:
        thread.join()
        theirs.close()


def _says(stream: bytes) -> Callable[[socket.socket], None]:
    def peer(end: socket.socket) -> None:
        assert b"stop" in end.recv(1000)
        end.sendall(stream)

    return peer


@pytest.mark.usefixtures("attentive")
@pytest.mark.parametrize("stream", [REPLY, EVENT + REPLY, EVENT + EVENT + REPLY])
def test_events_before_the_reply_are_skipped(stream: bytes) -> None:
    begin_ns = time.monotonic_ns()
    answer = _ask(_says(stream))
    assert answer is not None
    assert (answer.error, answer.result) == (None, {})
    assert answer.at_ns > begin_ns


@pytest.mark.usefixtures("attentive")
def test_an_error_is_an_answer() -> None:
    answer = _ask(_says(b'{"error": {"class": "GenericError", "desc": "not now"}}\n'))
    assert answer is not None
    assert answer.error == "not now"


@pytest.mark.usefixtures("attentive")
def test_no_reply_before_the_deadline_is_none() -> None:
    assert _ask(_says(EVENT), limit_s=0.01) is None


@pytest.mark.usefixtures("attentive")
def test_no_request_is_sent_after_one_without_an_answer() -> None:
    with pytest.raises(MonitorFailed, match=r"QEMU did not answer .* before the deadline"):
        _ask(_says(EVENT), limit_s=0.01, times=2)


@pytest.mark.usefixtures("attentive")
def test_a_qemu_that_closes_after_the_request_is_a_broken_connection() -> None:
    def peer(end: socket.socket) -> None:
        end.recv(1)  # the rest stays unread, so that the connection is reset
        end.close()

    with pytest.raises(MonitorFailed, match="connection"):
        _ask(peer)


@pytest.mark.usefixtures("attentive")
@pytest.mark.parametrize("line", [b"", b"{", b"{'return': {}}", b"\xff\xfe", b"5", b"[]", b"null"])
def test_a_line_that_is_not_a_message_is_a_failure(line: bytes) -> None:
    with pytest.raises(MonitorFailed, match="not a JSON object"):
        _ask(_says(line + b"\n" + REPLY))


@pytest.mark.usefixtures("attentive")
def test_an_answer_after_the_deadline_can_still_be_waited_for() -> None:
    ours, theirs = socket.socketpair()

    async def main() -> Answer | None:
        line = RequestLine("test", ours)
        line.send("stop")
        assert await line.answer(Deadline.after(0.01)) is None
        theirs.sendall(EVENT + REPLY)
        return await line.answer(Deadline.after(60))

    with ours, theirs:
        answer = asyncio.run(main())
    assert answer is not None
    assert answer.error is None
