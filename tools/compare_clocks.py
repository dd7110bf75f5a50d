# SPDX-License-Identifier: BSD-3-Clause
"""Compare the suite's clock with that of a plain blocking client, on the same stuck guest.

    .venv/bin/python tools/compare_clocks.py [PAIRS]

The tool makes a guest stuck in a blackhole. The suite and the few lines of `PlainClient` then time
`stop` in turns. Before each request, the guest is continued and proved to be stuck again. The tool
prints both medians in microseconds, and the ratio suite / plain client with its quartiles over the
pairs.
"""

import asyncio
import json
import socket
import statistics
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

from bench_lib import ownership
from bench_lib.deadline import Deadline
from bench_lib.guest import image, qemu
from bench_lib.guest.workloads.firmware import Firmware
from bench_lib.host import identity, setup
from bench_lib.migration import QemuManager
from bench_lib.network import link, outage
from bench_lib.record import Entry, RequestName, ScenarioName, Shape
from bench_lib.settings import Settings
from bench_lib.trial import proof
from bench_lib.trial.case import Case
from bench_lib.trial.requests.monitors import Stop
from bench_lib.trial.scenarios.description import SOON_S
from bench_lib.trial.scenarios.migration import Blackhole
from bench_lib.trial.scene import Plan, Staging
from bench_lib.trial.timeline import Timeline

LIMIT_S = 30


class PlainClient:
    """A QMP client as in the shortest script that an operator could write."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("r")
        self.file.readline()
        self.execute("qmp_capabilities")

    def execute(self, command: str) -> int:
        """Execute a command, and return the nanoseconds from before it is written to its reply."""
        message = json.dumps({"execute": command}).encode() + b"\n"
        sent_ns = time.monotonic_ns()
        self.socket.sendall(message)
        while True:
            line = self.file.readline()
            read_ns = time.monotonic_ns()
            if "return" in json.loads(line):
                return read_ns - sent_ns


async def compare(pairs: int) -> None:
    """Stage one guest, time pairs of requests to it, and print the results."""
    settings = Settings.from_environment()
    shape = Shape()
    with ownership.measuring(settings.runtime) as run:
        path = run.folder / "plain.qmp"
        command_line = qemu.command_line

        def with_third_monitor(config: qemu.GuestConfig, *fds: int) -> list[str]:
            more = ["-qmp", f"unix:{path},server=on,wait=off"] if config.incoming else []
            return [*command_line(config, *fds), *more]

        setattr(qemu, "command_line", with_third_monitor)  # noqa: B010  # in this tool only
        with link.joined(run, 0) as probe:
            mechanism = await outage.choose(probe)
        plan = Plan(
            run=run,
            host=identity.this_host(None),
            setup=setup.of_this_machine(),
            qemu=settings.qemu,
            workloads={shape: Firmware(image.load(settings.images, shape.image))},
            mechanism=mechanism,
            degradation=None,
        )
        async with AsyncExitStack() as stack:
            limit = Deadline.after(LIMIT_S)
            case = Case(ScenarioName.BLACKHOLE, RequestName.STOP)
            scenario = Blackhole(Staging(plan, 1, case, QemuManager(run), Timeline(), limit, stack))
            scene = await scenario.stage()
            await scenario.strand(scene)
            guest = scene.guest
            guest.watch.pause()
            stop = Stop(scene)
            plain = PlainClient(path)
            stack.callback(plain.socket.close)
            stack.callback(plain.file.close)

            async def stuck() -> None:
                limit = Deadline.after(LIMIT_S)
                await proof.stuck(guest.child.pid, scene.tids, Entry.GUP, limit, SOON_S)

            async def by_suite() -> int:
                await stop.send()
                reply = await stop.answer(Deadline.after(LIMIT_S))
                assert reply is not None
                return reply.latency_ns

            async def by_plain() -> int:
                return plain.execute("stop")

            times: dict[str, list[int]] = {"suite": [], "plain": []}
            for number in range(pairs):
                turns = [("suite", by_suite), ("plain", by_plain)]
                for name, timed in turns if number % 2 else turns[::-1]:
                    await stuck()
                    times[name].append(await timed())
                    await guest.control.execute("cont", deadline=Deadline.after(LIMIT_S))
    medians = {name: statistics.median(each) / 1000 for name, each in times.items()}
    ratios = [ours / theirs for ours, theirs in zip(times["suite"], times["plain"], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    print(f"suite {medians['suite']:.0f} us, plain client {medians['plain']:.0f} us, n = {pairs}")
    print(f"ratio of medians {medians['suite'] / medians['plain']:.3f}")
    print(
        f"ratio of each pair: median {statistics.median(ratios):.3f}, quartiles {low:.3f} and "
        f"{high:.3f}"
    )


if __name__ == "__main__":
    asyncio.run(compare(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
