# SPDX-License-Identifier: BSD-3-Clause
"""Outages of a link, made with tc and ip, chosen by trying, and proved by traffic."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from bench_lib import process
from bench_lib.errors import NamespacesUnavailable, OutageNotProven, OutageUnavailable, ToolFailed
from bench_lib.network.link import INTERFACE, End, Link
from bench_lib.network.traffic import Traffic
from bench_lib.ownership import Run
from bench_lib.process import run_tool, run_tools

FLAP_S = 0.3
"""Seconds that a flapping link is cut, and seconds that it is whole. TCP first retransmits after
0.2 s, so some data passes whenever the link is whole."""


@dataclass(frozen=True)
class Mechanism:
    """A way to treat all packets that leave an interface.

    :ivar cut: the tc(8) commands that apply it, without the word `tc`.
    :ivar restore: the tc(8) commands that remove it.
    """

    name: str
    cut: tuple[str, ...]
    restore: tuple[str, ...]


MECHANISMS = (
    # netem is made for this, but not every kernel has it.
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
    # The bucket is too small for any packet.
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
    # This only makes the link slow. Without netem, tc can add neither delay nor loss.
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


Prove = Callable[[Traffic], Awaitable[None]]


async def choose(link: Link) -> Mechanism:
    """Return the first mechanism that can cut `link` and restore it. The link is left healthy.

    :raise OutageUnavailable: no mechanism works; the message has the error of each.
    """
    return await _first(link, MECHANISMS, Traffic.prove_cut, "cut")


async def choose_degradation(link: Link) -> Mechanism:
    """Return the first mechanism that degrades `link`: slow, with delay and loss, or only slow.

    :raise OutageUnavailable: no mechanism works; the message has the error of each.
    """
    return await _first(link, DEGRADATIONS, Traffic.prove_slow, "slow down")


async def survey(link: Link) -> dict[str, str | None]:
    """Try all mechanisms on `link`.

    :return: for each mechanism's name, the error, or None if the mechanism works.
    :raise NamespacesUnavailable: the link passes no traffic even before an outage.
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
    failures = []
    with ExitStack() as stack:
        traffic = await _open(link, stack)
        for mechanism in mechanisms:
            failure = await _try(link, traffic, mechanism, prove)
            if failure is None:
                return mechanism
            failures.append(f"{mechanism.name}: {failure}")
    raise OutageUnavailable(
        f"tc cannot {verb} a link on this kernel. {' '.join(failures)} "
        "Load one of the modules sch_netem, cls_bpf and sch_tbf."
    )


async def _open(link: Link, stack: ExitStack) -> Traffic:
    """Make traffic over a link, and prove that it passes."""
    traffic = Traffic(link, stack)
    try:
        await traffic.prove_open()
    except OutageNotProven as error:
        raise NamespacesUnavailable(
            f"A new link between two namespaces does not work: {error}"
        ) from None
    return traffic


async def _try(link: Link, traffic: Traffic, mechanism: Mechanism, prove: Prove) -> str | None:
    """Return why a mechanism does not work on `link`, or None if it works.

    The link is left healthy.
    """
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
    """Apply the mechanism to everything that these ends send.

    :raise ToolFailed: tc failed.
    """
    _tc(ends, mechanism.cut)


def restore(ends: Sequence[End], mechanism: Mechanism) -> None:
    """Undo `cut`.

    :raise ToolFailed: tc failed.
    """
    _tc(ends, mechanism.restore)


def _tc_quietly(link: Link, mechanism: Mechanism) -> None:
    """Remove what is left of a cut that failed half-way."""
    for end in link.ends:
        with suppress(ToolFailed):
            _tc([end], mechanism.restore)


@contextmanager
def flapping(run: Run, link: Link, mechanism: Mechanism) -> Iterator[None]:
    """Cut and restore the link every `FLAP_S`. When the context is left, the link is whole."""

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
    """Take the carrier from both ends, by setting the interface at the source down.

    :raise ToolFailed: ip failed.
    """
    run_tool(["ip", "-netns", link.source.namespace, "link", "set", INTERFACE, "down"])


def bring_up(link: Link) -> None:
    """Undo `take_down`.

    :raise ToolFailed: ip failed.
    """
    run_tool(["ip", "-netns", link.source.namespace, "link", "set", INTERFACE, "up"])
