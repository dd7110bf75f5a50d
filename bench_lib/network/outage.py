# SPDX-License-Identifier: BSD-3-Clause
"""Outages: what goes wrong with a link, by means chosen by trying, and proved by traffic."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass

from bench_lib import process
from bench_lib.deadline import Deadline, together
from bench_lib.errors import NamespacesUnavailable, OutageNotProven, OutageUnavailable, ToolFailed
from bench_lib.network.link import INTERFACE, End, Link
from bench_lib.ownership import Run
from bench_lib.process import run_tool, run_tools

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

FLAP_S = 0.3
"""How long a flapping link is cut, and then whole. TCP tries again after 0.2 s at first, so that
something passes in every other interval."""

GIVE_UP_AFTER = 1
"""Retransmissions of an established connection until TCP gives up, where that is to be soon; about
a second instead of a quarter of an hour (Documentation/networking/ip-sysctl.rst, tcp_retries2)."""


@dataclass(frozen=True)
class Mechanism:
    """Something done to all that leaves an interface; tc(8) commands without the `tc`."""

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


DEGRADATIONS = (
    Mechanism(
        "netem-degraded",
        (f"qdisc add dev {INTERFACE} root netem delay 50ms 10ms loss 2% rate 1mbit",),
        (f"qdisc del dev {INTERFACE} root",),
    ),
    # Only slow: without netem nothing is late by itself, or lost.
    Mechanism(
        "tbf-degraded",
        (f"qdisc add dev {INTERFACE} root tbf rate 1mbit burst 4kb latency 400ms",),
        (f"qdisc del dev {INTERFACE} root",),
    ),
)


def _tc(ends: Sequence[End], commands: Sequence[str]) -> None:
    run_tools(
        [["tc", "-netns", end.namespace, "-batch", "-"] for end in ends],
        stdin=["\n".join(commands) + "\n" for _ in ends],
    )


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


Prove = Callable[[Traffic], Awaitable[None]]


async def choose(link: Link) -> Mechanism:
    """The first mechanism that cuts `link` and lets it be restored; the link is left healthy.

    :raise OutageUnavailable: none does; the sentence says what each answered.
    """
    return await _first(link, MECHANISMS, Traffic.prove_cut, "cut")


async def choose_degradation(link: Link) -> Mechanism:
    """The same for a link that is to be made slow, late and lossy, or at least slow."""
    return await _first(link, DEGRADATIONS, Traffic.prove_slow, "slow down")


async def survey(link: Link) -> dict[str, str | None]:
    """Try all mechanisms on `link`; by name why one does not work here, None for one that does.

    :raise NamespacesUnavailable: the link is no good to begin with.
    """
    with ExitStack() as stack:
        traffic = await _open(link, stack)
        return {
            mechanism.name: await _try(link, traffic, mechanism, prove)
            for mechanisms, prove in (
                (MECHANISMS, Traffic.prove_cut),
                (DEGRADATIONS, Traffic.prove_slow),
            )
            for mechanism in mechanisms
        }


async def _first(link: Link, mechanisms: Sequence[Mechanism], prove: Prove, verb: str) -> Mechanism:
    answers = []
    with ExitStack() as stack:
        traffic = await _open(link, stack)
        for mechanism in mechanisms:
            answer = await _try(link, traffic, mechanism, prove)
            if answer is None:
                return mechanism
            answers.append(f"{mechanism.name}: {answer}")
    raise OutageUnavailable(
        f"tc can {verb} a link in no way that is known here (" + " ".join(answers) + ") "
        "Load one of the modules sch_netem, cls_bpf, sch_tbf."
    )


async def _open(link: Link, stack: ExitStack) -> Traffic:
    """Traffic that is seen to pass."""
    traffic = Traffic(link, stack)
    try:
        await traffic.prove_open()
    except OutageNotProven as error:
        raise NamespacesUnavailable(f"A link between two namespaces is no good: {error}") from None
    return traffic


async def _try(link: Link, traffic: Traffic, mechanism: Mechanism, prove: Prove) -> str | None:
    """Why a mechanism does not work on `link`; None if it does. The link is left healthy."""
    try:
        cut(link.ends, mechanism)
        try:
            await prove(traffic)
        finally:
            restore(link.ends, mechanism)
        await traffic.prove_open()
    except (ToolFailed, OutageNotProven) as error:
        _tc_quietly(link, mechanism)
        return str(error)
    return None


def cut(ends: Sequence[End], mechanism: Mechanism) -> None:
    """Do to everything that these ends send what the mechanism does.

    :raise ToolFailed: tc refused.
    """
    _tc(ends, mechanism.cut)


def restore(ends: Sequence[End], mechanism: Mechanism) -> None:
    """Undo `cut`.

    :raise ToolFailed: tc refused.
    """
    _tc(ends, mechanism.restore)


def _tc_quietly(link: Link, mechanism: Mechanism) -> None:
    """Remove what a cut that failed half-way has left."""
    for end in link.ends:
        with suppress(ToolFailed):
            _tc([end], mechanism.restore)


@contextmanager
def flapping(run: Run, link: Link, mechanism: Mechanism) -> Iterator[None]:
    """Cut and restore the link in turns of `FLAP_S`; it is whole when the context is left."""

    def tc(commands: Sequence[str]) -> str:
        return "".join(
            f"tc -netns {end.namespace} {command};" for end in link.ends for command in commands
        )

    turns = f"{tc(mechanism.cut)} sleep {FLAP_S}; {tc(mechanism.restore)} sleep {FLAP_S};"
    try:
        with process.started(
            ["sh", "-c", f"while :; do {turns} done"],
            env=run.mark,
            output=run.folder / "flapping.log",
        ):
            yield
    finally:
        _tc_quietly(link, mechanism)


def take_down(link: Link) -> None:
    """Take the carrier from both ends.

    :raise ToolFailed: ip refused.
    """
    run_tool(["ip", "-netns", link.source.namespace, "link", "set", INTERFACE, "down"])


def bring_up(link: Link) -> None:
    """Undo `take_down`.

    :raise ToolFailed: ip refused.
    """
    run_tool(["ip", "-netns", link.source.namespace, "link", "set", INTERFACE, "up"])


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
