# SPDX-License-Identifier: BSD-3-Clause
"""The process that calls libvirt. A call cannot be cancelled, but this process can be killed.

    python -m bench_lib.libvirt.client URI

It connects, prints an answer, and then makes one call per line of stdin; see `Call`. It prints the
answer to each call as a line of JSON; see `Answer`. The times are taken just around the call, and
leave out that its domain is looked up before, unless libvirtd blocks that.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

BLOCKED_NS = 10_000_000
"""A domain is looked up in 0.3 ms. Nanoseconds after which libvirtd must have blocked that."""


class Call(msgspec.Struct):
    """One call.

    :ivar method: the method of libvirt-python.
    :ivar arguments: its arguments.
    :ivar domain: the name of the domain; None for a method of the connection.
    """

    method: str
    arguments: list[Any] = []
    domain: str | None = None


class Refusal(msgspec.Struct):
    """An error of libvirt.

    :ivar code: the name of its virErrorNumber.
    :ivar message: its text.
    """

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class Answer(msgspec.Struct):
    """The answer to a call.

    :ivar sent_ns: the time just before the call, in nanoseconds of the monotonic clock; the time
        before its domain was looked up if that took more than `BLOCKED_NS`.
    :ivar answered_ns: the time just after it, on the same clock.
    :ivar result: what the call returned, if that is a number, a string or a list.
    :ivar refusal: the error of the call; None if it succeeded.
    :ivar disconnected: whether the connection to libvirtd has ended, so that the refusal is not an
        answer of libvirtd.
    """

    sent_ns: int
    answered_ns: int
    result: int | str | list[int] | None = None
    refusal: Refusal | None = None
    disconnected: bool = False

    @property
    def error(self) -> str | None:
        """The refusal as text; None if there is none."""
        return None if self.refusal is None else str(self.refusal)


def main(uri: str) -> None:
    """Serve calls until stdin ends."""
    # No other process needs libvirt-python.
    import libvirt

    libvirt.registerErrorHandler(lambda *_: None, None)
    names = {value: name for name, value in vars(libvirt).items() if name.startswith("VIR_ERR_")}

    def timed(call: Callable[..., Any], *arguments: Any) -> tuple[Answer, Any]:
        sent_ns = time.monotonic_ns()
        try:
            result = call(*arguments)
        except libvirt.libvirtError as error:
            now_ns = time.monotonic_ns()
            number = error.get_error_code()
            code = names.get(number, f"virErrorNumber {number}")
            refusal = Refusal(code, error.get_error_message() or str(error))
            # libvirt's client reports the end of the connection itself.
            ended = error.get_error_domain() == libvirt.VIR_FROM_RPC
            return Answer(sent_ns, now_ns, refusal=refusal, disconnected=ended), None
        now_ns = time.monotonic_ns()
        plain = result if isinstance(result, int | str | list) else None
        return Answer(sent_ns, now_ns, plain), result

    def say(answer: Answer) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()

    answer, connection = timed(libvirt.open, uri)
    say(answer)
    if answer.refusal:
        return
    for line in sys.stdin.buffer:
        call = msgspec.json.decode(line, type=Call)
        if call.domain is None:
            answer, _ = timed(getattr(connection, call.method), *call.arguments)
        else:
            found, domain = timed(connection.lookupByName, call.domain)
            answer = found
            if not found.refusal:
                answer, _ = timed(getattr(domain, call.method), *call.arguments)
                if answer.sent_ns - found.sent_ns > BLOCKED_NS:
                    answer.sent_ns = found.sent_ns
        say(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
