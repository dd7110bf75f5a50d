# SPDX-License-Identifier: BSD-3-Clause
"""TCP connections over a link: their timeouts and queues, and how to reset them."""

from __future__ import annotations

from bench_lib.network.link import End, Link
from bench_lib.process import run_tool

GIVE_UP_AFTER = 1
"""Retransmissions after which TCP gives up an established connection. With this value it gives up
after about one second instead of 15 minutes (Documentation/networking/ip-sysctl.rst,
tcp_retries2)."""


def shorten_timeouts(link: Link) -> None:
    """Make TCP give up soon on the connections over this link, and on no others."""
    for end in link.ends:
        end.set("net.ipv4.tcp_retries2", GIVE_UP_AFTER)


def unacknowledged(end: End, port: int) -> bool:
    """Whether the connections from `port` of an end have sent data that is not acknowledged yet.

    :raise ToolFailed: ss failed.
    """
    return any(sent for _, sent in _queues(end, "sport", port))


def unread(link: Link, port: int) -> bool:
    """Whether the source has sent data to `port` of the destination that is not read there yet.

    :raise ToolFailed: ss failed.
    """
    return any(sent for _, sent in _queues(link.source, "dport", port)) or any(
        received for received, _ in _queues(link.destination, "sport", port)
    )


def _queues(end: End, side: str, port: int) -> list[tuple[int, int]]:
    """Return the queue lengths of each connection of an end, in bytes.

    :param side: which port of the connection, as this end sees it, is `port`: `sport` or `dport`.
    :return: pairs of received but not read, and sent but not acknowledged.
    """
    shown = run_tool(
        ["ss", "-N", end.namespace, "--tcp", "--numeric", "--no-header", side, "=", str(port)]
    )
    # State, Recv-Q, Send-Q, ...
    words = (line.split() for line in shown.splitlines())
    return [(int(received), int(sent)) for _, received, sent, *_ in words]


def reset(link: Link, port: int) -> None:
    """Reset the TCP connections to `port` of the destination, as a broken middlebox would.

    `ss -K` closes the socket at the source, and the kernel sends an RST, so that both sides notice.
    This needs CONFIG_INET_DIAG_DESTROY. On a kernel without it, ss closes nothing and reports no
    failure.

    :raise ToolFailed: ss failed.
    """
    run_tool(
        ["ss", "-N", link.source.namespace, "--kill", "--tcp", "--numeric", "dport", "=", str(port)]
    )
