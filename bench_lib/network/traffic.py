# SPDX-License-Identifier: BSD-3-Clause
"""Datagrams over a link, which prove that it is open, cut or slow."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack, ExitStack, suppress

from bench_lib.deadline import Deadline, together
from bench_lib.errors import OutageNotProven
from bench_lib.network.link import Link

DATAGRAMS = 20
"""Datagrams that prove a link either way: all pass, or none."""

PASS_LIMIT_S = 5.0
"""How long a healthy link may take until all of one round pass."""

ROUND_S = 0.02
"""How long a first round may take. A link just made drops what is sent before its queues are
started, which the kernel does some time after `ip` is back; so there are rounds, of doubling
length."""

SILENCE_S = 0.01
"""How long none may arrive over a cut one, at least; a datagram over a veth takes microseconds."""

SILENCE_FACTOR = 10
"""... and this many times what they took when the link was healthy, on slow machines."""

SLOW_S = 0.1
"""How long a burst takes at least over a degraded link; over a veth it takes microseconds."""

SLOW_LIMIT_S = 5.0
"""How long one may take at the most."""

BURST_BYTES = 1200
"""Of each datagram of that burst; together 24 KB, which are 0.19 s at 1 Mbit/s."""


class Traffic:
    """Datagrams over a link, both ways. Keeps its sockets, so that a look costs nothing else."""

    def __init__(self, link: Link, stack: ExitStack | AsyncExitStack) -> None:
        """:param stack: closes the sockets."""
        self._sockets = tuple(stack.enter_context(end.udp_socket()) for end in link.ends)
        for here, there in (self._sockets, self._sockets[::-1]):
            here.connect(there.getsockname())
        self._round = 0
        self._slowest_s = 0.0

    async def prove_open(self) -> None:
        """Datagrams pass in either direction, all of them.

        :raise OutageNotProven: there was always one that did not.
        """
        loop = asyncio.get_running_loop()
        deadline = Deadline.after(PASS_LIMIT_S)
        window_s = ROUND_S
        while True:
            begin = loop.time()
            arrived = await self._exchange(window_s, enough=DATAGRAMS)
            if arrived == [DATAGRAMS, DATAGRAMS]:
                self._slowest_s = loop.time() - begin
                return
            if deadline.passed:
                raise OutageNotProven(
                    f"The healthy link passed {arrived} of {DATAGRAMS} datagrams a direction."
                )
            window_s *= 2

    async def prove_cut(self, *, to_source_only: bool = False) -> None:
        """Datagrams pass in no direction, not one; or only none to the source, but to the other.

        :raise OutageNotProven: one did that should not, or none that should.
        """
        silence_s = max(SILENCE_S, SILENCE_FACTOR * self._slowest_s)
        at_source, at_destination = await self._exchange(silence_s, enough=1)
        if at_source or bool(at_destination) is not to_source_only:
            raise OutageNotProven(
                f"The cut link still passed {at_source} of {DATAGRAMS} datagrams to the source "
                f"and {at_destination} to the destination."
            )

    async def prove_slow(self) -> None:
        """A burst passes in either direction, but takes its time.

        :raise OutageNotProven: it did not, or was as fast as ever.
        """
        loop = asyncio.get_running_loop()
        begin = loop.time()
        # Most of it: a lossy link may lose some.
        enough = DATAGRAMS * 3 // 4
        arrived = await self._exchange(SLOW_LIMIT_S, enough, BURST_BYTES)
        took_s = loop.time() - begin
        if min(arrived) < enough or took_s < SLOW_S:
            raise OutageNotProven(
                f"The degraded link passed {arrived} of {DATAGRAMS} datagrams a direction, "
                f"within {took_s:.3f} s."
            )

    async def _exchange(self, window_s: float, enough: int, size: int = 4) -> list[int]:
        """Send a round; how much of it arrived (at the source, at the destination) in time.

        :param enough: stop to look at an end once it has this many.
        :param size: of a datagram, bytes.
        """
        self._round += 1
        payload = self._round.to_bytes(4).ljust(size, b"\0")
        for sender in self._sockets:
            for _ in range(DATAGRAMS):
                # What is dropped before it leaves will not arrive either.
                with suppress(OSError):
                    sender.send(payload)
        deadline = Deadline.after(window_s)
        return await together(
            *(_receive(receiver, payload, deadline, enough) for receiver in self._sockets)
        )


async def _receive(receiver: socket.socket, payload: bytes, deadline: Deadline, enough: int) -> int:
    """Datagrams of this round that came in time; late ones of earlier rounds do not count."""
    loop = asyncio.get_running_loop()
    count = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(deadline.remaining_s):
            while count < enough:
                count += await loop.sock_recv(receiver, 2048) == payload
    return count
