# SPDX-License-Identifier: BSD-3-Clause
"""Outages: what goes wrong with a link, by means chosen by trying, and proved by traffic."""

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
"""How long a flapping link is cut, and then whole. TCP tries again after 0.2 s at first, so that
something passes in every other interval."""


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
