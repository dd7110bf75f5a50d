"""Outages: ways to cut a link with tc, chosen by trying, and proved by traffic."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass

from bench_lib.deadline import Deadline, together
from bench_lib.errors import NamespacesUnavailable, OutageNotProven, OutageUnavailable, ToolFailed
from bench_lib.network.link import INTERFACE, End, Link
from bench_lib.process import run_tool

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


@dataclass(frozen=True)
class Mechanism:
    """A way to drop everything that leaves an interface; tc(8) commands without the `tc`."""

    name: str
    cut: tuple[str, ...]
    restore: tuple[str, ...]


MECHANISMS = (
    # What netem is made for, where the kernel has it.
    Mechanism(
        "netem",
        (f"qdisc add dev {INTERFACE} root netem loss 100%",),
        (f"qdisc del dev {INTERFACE} root",),
    ),
    # One instruction of classic BPF: return 2, which is TC_ACT_SHOT.
    Mechanism(
        "clsact-bpf",
        (
            f"qdisc add dev {INTERFACE} clsact",
            f"filter add dev {INTERFACE} egress bpf direct-action bytecode '1,6 0 0 2'",
        ),
        (f"qdisc del dev {INTERFACE} clsact",),
    ),
    # A token bucket that is too small for any packet.
    Mechanism(
        "tbf",
        (f"qdisc add dev {INTERFACE} root tbf rate 8bit burst 1 limit 1",),
        (f"qdisc del dev {INTERFACE} root",),
    ),
)


def _tc(ends: Sequence[End], commands: Sequence[str]) -> None:
    for end in ends:
        run_tool(["tc", "-netns", end.namespace, "-batch", "-"], stdin="\n".join(commands) + "\n")


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

    async def prove_cut(self) -> None:
        """Datagrams pass in no direction, not one.

        :raise OutageNotProven: one did.
        """
        silence_s = max(SILENCE_S, SILENCE_FACTOR * self._slowest_s)
        arrived = await self._exchange(silence_s, enough=1)
        if any(arrived):
            raise OutageNotProven(
                f"The cut link still passed {arrived} of {DATAGRAMS} datagrams a direction."
            )

    async def _exchange(self, window_s: float, enough: int) -> list[int]:
        """Send a round; how much of it arrived (at the source, at the destination) in time.

        :param enough: stop to look at an end once it has this many.
        """
        self._round += 1
        payload = self._round.to_bytes(4)
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
                count += await loop.sock_recv(receiver, 64) == payload
    return count


async def choose(link: Link) -> Mechanism:
    """The first mechanism that cuts `link` and lets it be restored; the link is left healthy.

    :raise OutageUnavailable: none does; the sentence says what each answered.
    """
    answers = []
    with ExitStack() as stack:
        traffic = Traffic(link, stack)
        try:
            await traffic.prove_open()
        except OutageNotProven as error:
            raise NamespacesUnavailable(
                f"A link between two namespaces is no good: {error}"
            ) from None
        for mechanism in MECHANISMS:
            try:
                cut(link, mechanism)
                try:
                    await traffic.prove_cut()
                finally:
                    restore(link, mechanism)
                await traffic.prove_open()
            except (ToolFailed, OutageNotProven) as error:
                answers.append(f"{mechanism.name}: {error}")
                _tc_quietly(link, mechanism)
            else:
                return mechanism
    raise OutageUnavailable(
        "tc can cut a link in no way that is known here (" + " ".join(answers) + ") "
        "Load one of the modules sch_netem, cls_bpf, sch_tbf."
    )


def cut(link: Link, mechanism: Mechanism) -> None:
    """Drop everything that either end sends.

    :raise ToolFailed: tc refused.
    """
    _tc(link.ends, mechanism.cut)


def restore(link: Link, mechanism: Mechanism) -> None:
    """Undo `cut`.

    :raise ToolFailed: tc refused.
    """
    _tc(link.ends, mechanism.restore)


def _tc_quietly(link: Link, mechanism: Mechanism) -> None:
    """Remove what a cut that failed half-way has left."""
    for end in link.ends:
        with suppress(ToolFailed):
            _tc([end], mechanism.restore)


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
