# SPDX-License-Identifier: BSD-3-Clause
"""Datagrams over a link, which prove that the link is open, cut or slow."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack, ExitStack, suppress

from bench_lib.deadline import Deadline, together
from bench_lib.errors import OutageNotProven
from bench_lib.network.link import Link

DATAGRAMS = 20
"""Datagrams per direction in one round. An open link passes all of them, a cut link none."""

PASS_LIMIT_S = 5.0
"""Seconds in which one round has to pass a healthy link in full."""

ROUND_S = 0.02
"""Seconds to wait for the first round; each further round waits twice as long. Several rounds are
needed, because a new link drops datagrams until the kernel has started its queues, which happens
some time after `ip` has ended."""

SILENCE_S = 0.01
"""The least number of seconds in which no datagram may arrive over a cut link. A datagram takes
microseconds over a veth."""

SILENCE_FACTOR = 10
"""On slow machines the silence has to last longer: this many times as long as the round over the
healthy link took."""

SLOW_S = 0.1
"""The least number of seconds that a burst takes over a degraded link. Over a healthy veth it takes
microseconds."""

SLOW_LIMIT_S = 5.0
"""The most seconds that a burst may take over a degraded link."""

BURST_BYTES = 1200
"""The size of a datagram of the burst. The whole burst is 24 KB, which takes 0.19 s at 1 Mbit/s."""


class Traffic:
    """A sender of datagrams over a link in both directions.

    It keeps its sockets open, so that a proof costs only the datagrams.
    """

    def __init__(self, link: Link, stack: ExitStack | AsyncExitStack) -> None:
        """Open a socket at each end of the link.

        :param stack: the exit stack that closes the sockets.
        """
        self._sockets = tuple(stack.enter_context(end.udp_socket()) for end in link.ends)
        for here, there in (self._sockets, self._sockets[::-1]):
            here.connect(there.getsockname())
        self._round = 0
        self._healthy_s = 0.0

    async def prove_open(self) -> None:
        """Prove that all datagrams of a round pass in both directions.

        :raise OutageNotProven: every round lost datagrams.
        """
        loop = asyncio.get_running_loop()
        deadline = Deadline.after(PASS_LIMIT_S)
        window_s = ROUND_S
        while True:
            start_s = loop.time()
            arrived = await self._exchange(window_s, enough=DATAGRAMS)
            if arrived == [DATAGRAMS, DATAGRAMS]:
                self._healthy_s = loop.time() - start_s
                return
            if deadline.passed:
                raise OutageNotProven(
                    f"The healthy link passed only {arrived[0]} of {DATAGRAMS} datagrams to the "
                    f"source and {arrived[1]} to the destination."
                )
            window_s *= 2

    async def prove_cut(self, *, to_source_only: bool = False) -> None:
        """Prove that no datagram passes.

        :param to_source_only: whether only the direction to the source is cut. Then datagrams to
            the destination have to pass.
        :raise OutageNotProven: a datagram passed in a cut direction, or none in an open one.
        """
        silence_s = max(SILENCE_S, SILENCE_FACTOR * self._healthy_s)
        at_source, at_destination = await self._exchange(silence_s, enough=1)
        if at_source or bool(at_destination) is not to_source_only:
            raise OutageNotProven(
                f"The cut link still passed {at_source} of {DATAGRAMS} datagrams to the source "
                f"and {at_destination} to the destination."
            )

    async def prove_slow(self) -> None:
        """Prove that a burst of large datagrams passes in both directions, but slowly.

        :raise OutageNotProven: too few datagrams arrived, or they arrived fast.
        """
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        # A lossy link may lose some datagrams.
        enough = DATAGRAMS * 3 // 4
        arrived = await self._exchange(SLOW_LIMIT_S, enough, BURST_BYTES)
        took_s = loop.time() - start_s
        if min(arrived) < enough or took_s < SLOW_S:
            raise OutageNotProven(
                f"The degraded link passed {arrived[0]} of {DATAGRAMS} datagrams to the source and "
                f"{arrived[1]} to the destination within {took_s:.3f} s."
            )

    async def _exchange(self, window_s: float, enough: int, size: int = 4) -> list[int]:
        """Send a round of datagrams in both directions.

        :param window_s: seconds to wait for the datagrams.
        :param enough: how many datagrams to wait for at each end.
        :param size: the size of a datagram in bytes.
        :return: how many datagrams arrived at the source and at the destination.
        """
        self._round += 1
        payload = self._round.to_bytes(4).ljust(size, b"\0")
        for sender in self._sockets:
            for _ in range(DATAGRAMS):
                # A datagram that cannot even be sent counts as lost.
                with suppress(OSError):
                    sender.send(payload)
        deadline = Deadline.after(window_s)
        return await together(
            *(_receive(receiver, payload, deadline, enough) for receiver in self._sockets)
        )


async def _receive(receiver: socket.socket, payload: bytes, deadline: Deadline, enough: int) -> int:
    """Count the datagrams of this round that arrive in time, but no late ones of earlier rounds."""
    loop = asyncio.get_running_loop()
    count = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(deadline.remaining_s):
            while count < enough:
                count += await loop.sock_recv(receiver, 2048) == payload
    return count
