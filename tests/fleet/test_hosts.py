# SPDX-License-Identifier: BSD-3-Clause
"""Simulated hosts: each is apart from the others, trials run in them, and nothing is left."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench_lib import record
from bench_lib.errors import HostError
from bench_lib.host import device
from bench_lib.record import Outcome
from tests.conftest import NO_KVM
from tests.fleet.fleet import KICKBENCH
from tests.fleet.hosts import RUNTIME, SimulatedHost, Switch, left_of, state_of

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 1), 2)"
"""A script that connects to a port on which nothing listens."""


@pytest.fixture
def pair(environment: dict[str, str], tmp_path: Path) -> Iterator[tuple[SimulatedHost, ...]]:
    """Two hosts that are on. Nothing of them may be left at the end."""
    namespaces: set[str] = set()
    with ExitStack() as stack:
        switch = stack.enter_context(Switch())
        hosts = []
        for name in ("red", "blue"):
            host = SimulatedHost(switch, name, tmp_path / name, environment)
            host.on()
            stack.callback(host.off)
            namespaces |= host.namespaces()
            hosts.append(host)
        yield tuple(hosts)
    assert not left_of(namespaces, tmp_path)


Pair = tuple[SimulatedHost, SimulatedHost]


def _connects(host: SimulatedHost, other: SimulatedHost) -> str:
    """What becomes of a connection between two hosts: the class of the error."""
    done = host.run(["python3", "-c", CONNECT, other.address])
    return done.stderr.splitlines()[-1].partition(":")[0]


def test_hosts_differ_in_what_identifies_them(pair: Pair) -> None:
    script = "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id; ls /run/netns"
    red, blue = (host.run(["sh", "-c", script]).stdout.split() for host in pair)
    assert (red[0], blue[0]) == ("red", "blue")
    assert len({*red, *blue}) == len(red) + len(blue) == 6


def test_a_host_that_is_unplugged_gets_no_answer_and_no_error(pair: Pair) -> None:
    red, blue = pair
    assert _connects(red, blue) == "ConnectionRefusedError"
    blue.unplug()
    assert _connects(red, blue) == "TimeoutError"
    blue.plug()
    assert _connects(red, blue) == "ConnectionRefusedError"


def test_a_frozen_host_stands_still_until_it_is_thawed(pair: Pair) -> None:
    red, _ = pair
    frozen, other = (host.start(["sleep", "1000"]) for host in pair)
    red.freeze()
    assert state_of(frozen.pid) == "T"
    assert state_of(other.pid) != "T"
    red.thaw()
    assert state_of(frozen.pid) != "T"
    frozen.signal(signal.SIGTERM)
    assert frozen.wait() == 128 + signal.SIGTERM
    assert not red.processes()


def test_a_host_that_was_off_has_another_boot_id_and_the_same_machine_id(pair: Pair) -> None:
    host, _ = pair
    host.start(["sleep", "1000"])
    script = "cat /etc/machine-id /proc/sys/kernel/random/boot_id; touch /run/tmp/witness"
    machine_id, boot_id = host.run(["sh", "-c", script]).stdout.split()
    before = host.namespaces()
    host.off()
    assert not left_of(before, host.folder)
    host.on()
    again = host.run(["sh", "-c", f"{script}; ls /run/tmp"]).stdout.split()
    assert again[0] == machine_id
    assert again[1] != boot_id
    assert again[2:] == ["witness"]
    assert not host.processes()


def test_everything_ends_with_the_process_that_has_made_a_host(
    environment: Mapping[str, str], tmp_path: Path
) -> None:
    script = """
import os, pathlib, signal, sys
from tests.fleet.hosts import SimulatedHost, Switch
with Switch() as switch:
    host = SimulatedHost(switch, "red", pathlib.Path(sys.argv[1]), dict(os.environ))
    host.on()
    host.start(["setsid", "sleep", "1000"])
    print(*host.namespaces(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    program = Path(KICKBENCH).with_name("python")
    killed = subprocess.run(
        [program, "-c", script, tmp_path / "red"], capture_output=True, text=True, check=False
    )
    namespaces = set(killed.stdout.split())
    assert len(namespaces) == 4, killed.stderr
    # The kernel ends them at once, but it does so after the end of the process was reported.
    while any(line.startswith("process") for line in left_of(namespaces, tmp_path / "red")):
        pass
    assert not left_of(namespaces, tmp_path / "red")


@pytest.fixture
def _kvm() -> None:
    try:
        device.check()
    except HostError as error:
        pytest.skip(f"{NO_KVM}: {error}")


@pytest.mark.usefixtures("_kvm")
def test_hosts_make_trials_at_the_same_time(pair: Pair, tmp_path: Path) -> None:
    """Each has a runtime folder of its own, so neither finds the other one measuring."""
    running = [
        host.start(
            [KICKBENCH, "trial", "--scenario", "blackhole", "--request", "stop"],
            {"KICKBENCH_RECORDS": str(host.folder / "records.jsonl")},
        )
        for host in pair
    ]
    for host, process in zip(pair, running, strict=True):
        assert process.wait(240) == 0, process.output()
        ((made,), _) = record.read(host.folder / "records.jsonl")
        assert (made.outcome, made.host.machine) == (Outcome.RETURNED, host.name)
        assert not host.processes()
        assert not [path for path in host.root(RUNTIME).iterdir() if path.is_dir()]
