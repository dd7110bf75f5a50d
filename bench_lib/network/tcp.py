# SPDX-License-Identifier: BSD-3-Clause
"""TCP connections over a link: their timeouts, their queues, their reset."""

from __future__ import annotations

from bench_lib.network.link import End, Link
from bench_lib.process import run_tool

GIVE_UP_AFTER = 1
"""Retransmissions of an established connection until TCP gives up, where that is to be soon; about
a second instead of a quarter of an hour (Documentation/networking/ip-sysctl.rst, tcp_retries2)."""


def shorten_timeouts(link: Link) -> None:
    """Let TCP give up soon, on connections over this link alone."""
    for end in link.ends:
        end.set("net.ipv4.tcp_retries2", GIVE_UP_AFTER)


def unacknowledged(end: End, port: int) -> bool:
    """Whether an end's connections from that port have sent what was not acknowledged yet.

    :raise ToolFailed: ss refused.
    """
    return any(sent for _, sent in _queues(end, "sport", port))


def unread(link: Link, port: int) -> bool:
    """Whether the source has sent to `port` of the destination what is not read there yet.

    :raise ToolFailed: ss refused.
    """
    return any(sent for _, sent in _queues(link.source, "dport", port)) or any(
        received for received, _ in _queues(link.destination, "sport", port)
    )


def _queues(end: End, side: str, port: int) -> list[tuple[int, int]]:
    """Of each connection of an end, the bytes received and not read, and sent and not acknowledged.

    :param side: of the connection that has the port, from this end: `sport` or `dport`.
    """
    shown = run_tool(
        ["ss", "-N", end.namespace, "--tcp", "--numeric", "--no-header", side, "=", str(port)]
    )
    # State, Recv-Q, Send-Q, ...
    words = (line.split() for line in shown.splitlines())
    return [(int(received), int(sent)) for _, received, sent, *_ in words]


def reset(link: Link, port: int) -> None:
    """Reset the TCP connections to `port` of the destination, as a broken middlebox would.

    ss -K closes the socket at the source and the kernel tells the peer with an RST, so that both
    sides learn of it. Needs CONFIG_INET_DIAG_DESTROY; where that is missing ss kills nothing and
    nobody sees a failure.

    :raise ToolFailed: ss refused.
    """
    run_tool(
        ["ss", "-N", link.source.namespace, "--kill", "--tcp", "--numeric", "dport", "=", str(port)]
    )
