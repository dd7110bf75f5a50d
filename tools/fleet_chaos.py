# SPDX-License-Identifier: BSD-3-Clause
"""Kill workers, coordinator and clients at random moments of a campaign over simulated hosts.

    .venv/bin/python tools/fleet_chaos.py [--pretend] [--workers N] [--coordinator N] [--clients N]
        [--boots N] [--pause SECONDS] [--seed N]

Three hosts (tests/fleet) boot two kernels in labs. One campaign is made with kills by SIGKILL, and
then the same one without kills. What is killed is started again at once, as systemd does; whatever
else runs on the host is left to the host. The tool fails unless

- both campaigns have the same records: the same boots of each host, whole, and none twice,
- every process of the hosts ends, and `kickbench clean` leaves no namespace and no folder of a run.

With --pretend the trials only sleep, so it takes two minutes instead of half an hour.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench_lib.deadline import Deadline
from bench_lib.fleet.status import CampaignState, HostState
from bench_lib.ownership import RUN_ID
from tests.fleet.conftest import KERNELS, empty_history, host_environment
from tests.fleet.fleet import KICKBENCH, Fleet, Place, boots
from tests.fleet.hosts import RUNTIME, HostProcess

HOSTS = ("red", "green", "blue")

TRIALS = 2
"""Trials of each boot."""

SLEEP_S = 2.0
"""Seconds that a pretended boot takes."""

ENDING_S = 60.0
"""Seconds in which what a killed worker has started has to end."""

LIMIT_S = 7200.0
"""Seconds in which a campaign has to end."""

LOOK_S = 0.2

STARTING_S = 60.0
"""Seconds that a process may take to start."""


@dataclass
class Chaos:
    """What was killed, and how often.

    :ivar left: what is still to be killed, in order.
    """

    fleet: Fleet
    left: list[str]
    killed: Counter[str]
    client: HostProcess
    command: Sequence[str]

    def kill_next(self) -> None:
        """Kill the next one, and start it again."""
        what = self.left.pop()
        self.killed[what] += 1
        if what == "coordinator":
            self.fleet.kill_coordinator()
            self.fleet.launch_coordinator()
        elif what == "client":
            self.client.kill()
            self.client = self.fleet.campaign(*self.command)
        else:
            member = self.fleet.members[random.choice(HOSTS)]  # noqa: S311  # not a secret
            assert member.worker is not None
            member.worker.kill()
            self.fleet.join(member)


def begun(fleet: Fleet, command: Sequence[str]) -> HostProcess:
    """Start a client, and wait until its campaign runs."""
    before = fleet.status()
    assert before is not None
    client = fleet.campaign(*command)
    fleet.until(
        "the campaign begins",
        lambda status: len(status.campaigns) > len(before.campaigns),
        STARTING_S,
    )
    return client


def campaign(name: str, count: int) -> list[str]:
    """The arguments of the campaign.

    :param count: how often each host boots each kernel.
    """
    trials = ("--scenario", "idle", "--request", "stop", "-n", str(TRIALS), "--work", "lab")
    bound = [word for each in HOSTS for word in ("--host", each)]
    return [*KERNELS, *trials, "--boots", str(count), "--name", name, *bound]


def recorded(fleet: Fleet, number: int) -> Counter[Place]:
    """How many records each boot of a campaign has.

    :param number: the campaign's number, from 0.
    """
    status = fleet.status()
    assert status is not None
    id_ = status.campaigns[number].id
    return boots([each for each in fleet.records if each.slot and each.slot.campaign == id_])


def leftovers(fleet: Fleet) -> list[str]:
    """End the workers, clean each host, and return what is left."""
    found = []
    for name in HOSTS:
        member = fleet.members[name]
        assert member.worker is not None
        member.worker.kill()
        deadline = Deadline.after(ENDING_S)
        while member.host.processes() and not deadline.passed:
            time.sleep(LOOK_S)
        found += [f"process {pid} of {name}" for pid in member.host.processes()]
        cleaned = member.host.run([KICKBENCH, "clean"])
        if cleaned.returncode != 0:
            found.append(f"{name}: {cleaned.stderr.strip()}")
        found += [
            f"{path} of {name}"
            for folder in (RUNTIME, Path("/run/netns"))
            for path in member.host.root(folder).iterdir()
            if folder != RUNTIME or RUN_ID.fullmatch(path.name)
        ]
    return found


@contextmanager
def three_hosts(*, pretend: bool) -> Iterator[Fleet]:
    """A fleet whose hosts wait for work."""
    with tempfile.TemporaryDirectory(prefix="fleet-") as temporary:
        folder = Path(temporary)
        history = empty_history(folder / "history")
        with Fleet(folder, history, host_environment()) as fleet:
            fleet.start_coordinator()
            for name in HOSTS:
                member = fleet.add(name, pretends=pretend)
                if pretend:
                    member.behave(f"sleep {SLEEP_S}")
                fleet.join(member)
            for name in HOSTS:
                fleet.until_state(name, HostState.READY)
            yield fleet


def main() -> None:
    """Make both campaigns, and compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretend", action="store_true")
    parser.add_argument("--workers", type=int, default=20, help="how many workers to kill")
    parser.add_argument("--coordinator", type=int, default=10, help="how often to kill it")
    parser.add_argument("--clients", type=int, default=5, help="how many clients to kill")
    parser.add_argument("--boots", type=int, help="of each kernel, on each host")
    parser.add_argument("--pause", type=float, help="mean seconds between kills")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    random.seed(options.seed)
    count = options.boots or (40 if options.pretend else 4)
    boots_each = count * len(KERNELS) * len(HOSTS)
    pause_s = options.pause or (2.5 if options.pretend else 12)

    with three_hosts(pretend=options.pretend) as fleet:
        start_s = time.monotonic()
        left = ["worker"] * options.workers + ["coordinator"] * options.coordinator
        left += ["client"] * options.clients
        random.shuffle(left)
        command = campaign("disturbed", count)
        chaos = Chaos(fleet, left, Counter(), begun(fleet, command), command)
        while chaos.left:
            time.sleep(random.uniform(0, 2 * pause_s))  # noqa: S311  # not a secret
            if len(fleet.records) == TRIALS * boots_each:
                break
            chaos.kill_next()
        disturbed = fleet.until_ended(LIMIT_S)
        took_s = time.monotonic() - start_s
        killed = ", ".join(f"{number} x {what}" for what, number in sorted(chaos.killed.items()))
        first = recorded(fleet, 0)
        print(f"with kills ({killed}): {disturbed}, {first.total()} records of {len(first)} "
              f"boots in {took_s:.0f} s", flush=True)  # fmt: skip

        start_s = time.monotonic()
        begun(fleet, campaign("undisturbed", count))
        usual = fleet.until_ended(LIMIT_S)
        second = recorded(fleet, 1)
        usual_s = time.monotonic() - start_s
        print(f"without kills: {usual}, {second.total()} records of "
              f"{len(second)} boots in {usual_s:.0f} s", flush=True)  # fmt: skip
        left_over = leftovers(fleet)

    problems = [
        *(f"{each} of the campaign without kills is missing" for each in second - first),
        *(f"{each} is there twice" for each in first - second),
        *(["a campaign is not complete"] if {usual, disturbed} != {CampaignState.COMPLETE} else []),
        *([f"{len(chaos.left)} kills were too late"] if chaos.left else []),
        *left_over,
    ]
    print(
        "\n".join(problems) or "The records are the same, none is there twice, and nothing is left."
    )
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
