# SPDX-License-Identifier: BSD-3-Clause
"""A fleet of simulated hosts: a coordinator, hosts and an operator, each with a certificate."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from bench_lib import record
from bench_lib.fleet.status import CampaignState, FleetStatus, HostState, HostStatus
from bench_lib.record import Record
from bench_lib.settings import CHECKOUT
from tests.fleet import task
from tests.fleet.hosts import HostProcess, SimulatedHost, Switch, left_of

PROGRAMS = Path(sys.executable).parent
KICKBENCH = PROGRAMS / "kickbench"

TASK = CHECKOUT / "bench_lib" / "fleet" / "task.py"
"""The module that `task` takes the place of."""

PORT = 8786
WAIT_S = 120.0
"""How long to wait for what happens in seconds, or in half a minute. Only a hang takes as long."""

LOOK_S = 0.1
"""Seconds between two looks at the status."""

COORDINATOR, OPERATOR = "coordinator", "operator"
"""The names of the simulated hosts that are not hosts of the fleet."""


@dataclass
class Member:
    """A host of the fleet.

    :ivar worker: the process of `fleet join`; None if it was not started.
    """

    host: SimulatedHost
    worker: HostProcess | None = None

    def behave(self, text: str) -> None:
        """Tell a host that pretends what to do from now on; see `task`."""
        # Replaced whole, because a task may be reading it.
        new = self.host.root(task.BEHAVIOR.with_suffix(".new"))
        new.write_text(text)
        new.rename(self.host.root(task.BEHAVIOR))


class Fleet:
    """A fleet, which ends with the context.

    :ivar folder: the folder for all files of the fleet.
    :ivar history: the folder of the coordinator's history; it has to exist.
    """

    def __init__(
        self,
        folder: Path,
        history: Path,
        environment: Mapping[str, str],
        coordinator: Mapping[Path, Path] | None = None,
    ) -> None:
        """Describe it.

        :param environment: the environment of all hosts, without what belongs to the fleet.
        :param coordinator: files of the coordinator's own, by the path that they replace.
        """
        self.folder = folder
        self.history = history
        self.members: dict[str, Member] = {}
        self._environment = environment
        self._coordinator_files = coordinator
        self._bundles: dict[str, str] = {}
        self._namespaces: set[str] = set()
        self._watcher: subprocess.Popen[bytes] | None = None
        self._coordinator: HostProcess | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.switch = stack.enter_context(Switch())
            self._certify("--coordinator", COORDINATOR, "--user", OPERATOR)
            self.coordinator_host = self._simulated(COORDINATOR, COORDINATOR)
            self.coordinator_host.files = self._coordinator_files
            self.operator = self._simulated(OPERATOR, OPERATOR)
            for each in (self.coordinator_host, self.operator):
                self.on(each)
                stack.callback(each.off)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
        self._stack.close()
        assert not left_of(self._namespaces, self.folder)

    @property
    def address(self) -> str:
        return f"{self.coordinator_host.address}:{PORT}"

    # Hosts.

    def add(self, name: str, *, called: str = "", pretends: bool = True) -> Member:
        """Add a host, and switch it on. It does not join yet.

        :param name: the name of its certificate, and of its files here.
        :param called: its host name, if that is another.
        :param pretends: whether it only pretends to make trials.
        """
        self._certify("--host", name)
        host = self._simulated(name, called or name)
        if pretends:
            host.files = {TASK: Path(task.__file__)}
        self.on(host)
        self._stack.callback(host.off)
        self.members[name] = member = Member(host)
        return member

    def join(self, member: Member, *arguments: str) -> HostProcess:
        """Let a host join the fleet.

        :param arguments: more arguments of `kickbench fleet join`.
        """
        member.worker = member.host.start([*self.joining(), *arguments])
        return member.worker

    def joining(self) -> list[str | Path]:
        """The command that lets a host join."""
        return [KICKBENCH, "fleet", "join", self.address]

    def _simulated(self, name: str, called: str) -> SimulatedHost:
        return SimulatedHost(
            self.switch,
            called,
            self.folder / name,
            {
                **self._environment,
                "KICKBENCH_HISTORY": str(self.history),
                "KICKBENCH_CERTIFICATES": self._bundles[name],
                "KICKBENCH_FLEET": f"198.51.100.1:{PORT}",
            },
        )

    def on(self, host: SimulatedHost) -> None:
        """Switch a host on."""
        host.on()
        self._namespaces |= host.namespaces()

    def _certify(self, *arguments: str) -> None:
        """Make certificates with `kickbench fleet ca`."""
        done = subprocess.run(
            [KICKBENCH, "fleet", "ca", self.folder / "ca", *arguments, "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        self._bundles |= {each["name"]: each["folder"] for each in json.loads(done.stdout)}

    # The coordinator, and its operator.

    def start_coordinator(self) -> None:
        """Start the coordinator, and wait until it answers."""
        self.launch_coordinator()
        self.until("the coordinator answers", lambda status: True)

    def launch_coordinator(self) -> None:
        """Start the coordinator, which may not answer yet."""
        self._coordinator = self.coordinator_host.start(
            [KICKBENCH, "fleet", "coordinator", "--listen", f":{PORT}"]
        )

    def kill_coordinator(self) -> None:
        """Kill the coordinator."""
        assert self._coordinator is not None
        self._coordinator.kill()

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of `kickbench fleet` as the operator."""
        return self.operator.run([KICKBENCH, "fleet", *arguments])

    def campaign(self, *arguments: str) -> HostProcess:
        """Start a campaign as the operator, who follows it."""
        return self.operator.start([KICKBENCH, "fleet", "campaign", *arguments])

    def status(self) -> FleetStatus | None:
        """The status of the fleet; None if the coordinator cannot be reached."""
        if self._watcher is None:
            self._watcher = self.operator.talk(
                [PROGRAMS / "python", "-m", "tests.fleet.watch", self.address,
                 self._bundles[OPERATOR]],
                {"PYTHONPATH": str(CHECKOUT)},
            )  # fmt: skip
        watcher = self._watcher
        assert watcher.stdin is not None
        assert watcher.stdout is not None
        watcher.stdin.write(b"\n")
        watcher.stdin.flush()
        return msgspec.json.decode(watcher.stdout.readline(), type=FleetStatus | None)

    def until(
        self, what: str, is_so: Callable[[FleetStatus], bool], limit_s: float = WAIT_S
    ) -> FleetStatus:
        """Wait until the status shows something, and return that status.

        :raise AssertionError: it has not within the limit.
        """
        end = time.monotonic() + limit_s
        while True:
            status = self.status()
            if status is not None and is_so(status):
                return status
            if time.monotonic() > end:
                raise AssertionError(
                    f"It did not happen within {limit_s:.0f} s that {what}: {status}\n"
                    f"{self._coordinator.output() if self._coordinator else ''}"
                )
            time.sleep(LOOK_S)

    def until_state(self, name: str, *states: HostState, limit_s: float = WAIT_S) -> HostStatus:
        """Wait until a host is in one of these states, and return its status."""

        def is_so(status: FleetStatus) -> bool:
            found = host_of(status, name)
            return found is not None and found.state in states

        found = host_of(self.until(f"{name} is {' or '.join(states)}", is_so, limit_s), name)
        assert found is not None
        return found

    def until_ended(self, limit_s: float = WAIT_S) -> CampaignState:
        """Wait until the last campaign has ended, and return its state."""
        status = self.until(
            "the campaign ends",
            lambda status: (
                bool(status.campaigns) and status.campaigns[-1].state is not CampaignState.RUNNING
            ),
            limit_s,
        )
        return status.campaigns[-1].state

    @property
    def said(self) -> str:
        """What the coordinator has printed since it was last started."""
        assert self._coordinator is not None
        return self._coordinator.output()

    # What was measured.

    @property
    def records(self) -> list[Record]:
        """All records of the coordinator's history."""
        records, damaged = record.read(self.history / ".asv" / "records.jsonl")
        assert not damaged
        return records


def host_of(status: FleetStatus, name: str) -> HostStatus | None:
    """The status of a host; None if the fleet does not have it."""
    return next((each for each in status.hosts if each.facts.name == name), None)


Place = tuple[str, int, str]
"""The name of the host, the number and the release of a boot."""


def boots(records: Sequence[Record]) -> Counter[Place]:
    """How many records each boot of a campaign has."""
    return Counter(
        (each.host.machine, each.slot.number, each.kernel.release) for each in records if each.slot
    )
