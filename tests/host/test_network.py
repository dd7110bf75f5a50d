# SPDX-License-Identifier: BSD-3-Clause
"""Links and outages, with real namespaces and qdiscs."""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench_lib.errors import OutageNotProven, OutageUnavailable, ToolFailed
from bench_lib.network import link, outage, tcp
from bench_lib.network.outage import MECHANISMS, Mechanism
from bench_lib.network.traffic import Traffic
from bench_lib.ownership import Run
from bench_lib.process import in_network_namespace
from bench_lib.record import ScenarioName
from bench_lib.settings import Settings
from bench_lib.trial import batch


def test_a_mechanism_that_this_kernel_has_cuts_and_restores(run: Run) -> None:
    async def main() -> None:
        with link.joined(run, 0) as ends, ExitStack() as stack:
            chosen = await outage.choose(ends)
            traffic = Traffic(ends, stack)
            await traffic.prove_open()
            for _ in range(2):
                outage.cut(ends.ends, chosen)
                await traffic.prove_cut()
                outage.restore(ends.ends, chosen)
                await traffic.prove_open()

    asyncio.run(main())


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda mechanism: mechanism.name)
def test_every_mechanism_either_cuts_or_is_refused_by_tc(run: Run, mechanism: Mechanism) -> None:
    async def main() -> None:
        with link.joined(run, 0) as ends, ExitStack() as stack:
            traffic = Traffic(ends, stack)
            await traffic.prove_open()
            try:
                outage.cut(ends.ends, mechanism)
            except ToolFailed as refused:
                # This kernel lacks the module. A command that is wrong has another error.
                if re.search(r"is unknown|Unknown qdisc|classifier not found", str(refused)):
                    return
                raise
            await traffic.prove_cut()
            outage.restore(ends.ends, mechanism)
            await traffic.prove_open()

    asyncio.run(main())


def test_unread_data_of_the_destination_is_seen(run: Run) -> None:
    port = 4000
    with link.joined(run, 0) as ends, ExitStack() as stack:
        address = (ends.destination.address, port)
        with in_network_namespace(ends.destination.fd):
            listening = stack.enter_context(socket.create_server(address))
        with in_network_namespace(ends.source.fd):
            sender = stack.enter_context(socket.create_connection(address))
        reader = stack.enter_context(listening.accept()[0])
        assert not tcp.unread(ends, port)
        sender.sendall(b"state")
        assert tcp.unread(ends, port)
        reader.recv(64)
        while tcp.unread(ends, port):  # until the source has received the acknowledgement
            pass


def test_a_link_that_is_not_cut_is_not_proved_cut(run: Run) -> None:
    async def main() -> None:
        with link.joined(run, 0) as ends, ExitStack() as stack:
            traffic = Traffic(ends, stack)
            await traffic.prove_open()
            with pytest.raises(OutageNotProven, match="still passed"):
                await traffic.prove_cut()

    asyncio.run(main())


def test_a_link_that_is_cut_one_way_is_not_proved_cut_nor_open(run: Run) -> None:
    async def main() -> None:
        with link.joined(run, 0) as ends, ExitStack() as stack:
            chosen = await outage.choose(ends)
            traffic = Traffic(ends, stack)
            await traffic.prove_open()
            outage.cut([ends.source], chosen)
            with pytest.raises(OutageNotProven):
                await traffic.prove_cut()
            with pytest.raises(OutageNotProven):
                await traffic.prove_open()

    asyncio.run(main())


def test_a_mechanism_that_does_not_cut_is_not_chosen(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tc accepts these commands, but they cut nothing."""
    idle = Mechanism("idle", ("qdisc add dev veth0 clsact",), ("qdisc del dev veth0 clsact",))
    monkeypatch.setattr(outage, "MECHANISMS", (idle,))

    async def main() -> None:
        with (
            link.joined(run, 0) as ends,
            pytest.raises(OutageUnavailable, match="idle: The cut link still passed"),
        ):
            await outage.choose(ends)

    asyncio.run(main())


def test_a_scenario_whose_mechanism_does_not_work_is_unavailable(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.from_environment()
    assert batch.unavailable(list(ScenarioName), settings) == {}
    idle = Mechanism("idle", ("qdisc add dev veth0 clsact",), ("qdisc del dev veth0 clsact",))
    monkeypatch.setattr(outage, "DEGRADATIONS", (idle,))
    (reason,) = batch.unavailable(list(ScenarioName), settings).items()
    assert reason[0] is ScenarioName.DEGRADED
    assert "tc cannot slow down a link on this kernel. idle: " in reason[1]
    assert batch.unavailable([ScenarioName.IDLE, ScenarioName.BLACKHOLE], settings) == {}


def test_a_link_adds_only_its_two_namespaces_and_removes_them(run: Run) -> None:
    before = set(link.existing())
    with link.joined(run, 7) as ends:
        names = {end.namespace for end in ends.ends}
        assert set(link.existing()) - before == names
        assert all(run.id in name for name in names)
    assert set(link.existing()) == before
