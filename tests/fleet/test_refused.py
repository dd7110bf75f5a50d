# SPDX-License-Identifier: BSD-3-Clause
"""Hosts that are set aside or refused, with the reason, while the campaign goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench_lib.errors import CampaignIncomplete, CertificateUnusable
from bench_lib.fleet.status import CampaignState, HostState
from bench_lib.settings import CHECKOUT
from tests.fleet import limits, task
from tests.fleet.conftest import NAMES
from tests.fleet.fleet import Fleet, Member, host_of
from tests.fleet.test_kills import assert_complete, plan

VERSION = CHECKOUT / "bench_lib" / "__init__.py"


def test_a_host_whose_boots_fail_is_set_aside_and_the_others_go_on(fleet: Fleet) -> None:
    green = fleet.members["green"]
    green.behave("fail")
    client = fleet.campaign(*plan("fails", *NAMES))
    aside = fleet.until_state("green", HostState.SET_ASIDE)
    assert aside.reason is not None
    assert task.SENTENCE in aside.reason
    assert client.wait() == CampaignIncomplete.exit_status, client.output()
    assert "green" in client.output()
    assert_complete(fleet, "red", "blue")
    shown = fleet.cli("status").stdout
    assert "set aside" in shown
    assert "failed in a row" in shown

    green.behave("")
    assert fleet.cli("drain", "green", "--undo").returncode == 0
    again = fleet.campaign(*plan("fails", *NAMES))
    assert again.wait() == 0, again.output()
    assert_complete(fleet, *NAMES)


def test_a_boot_that_never_ends_is_ended_and_fails(fleet: Fleet) -> None:
    blue = fleet.members["blue"]
    blue.behave("hold")
    client = fleet.campaign(*plan(limits.SHORT, "blue"))
    aside = fleet.until_state("blue", HostState.SET_ASIDE)
    assert aside.reason is not None
    assert "did not end within" in aside.reason
    assert client.wait() == CampaignIncomplete.exit_status
    assert blue.worker is not None
    assert blue.host.processes() == [blue.worker.pid]
    assert fleet.cli("drain", "blue", "--undo").returncode == 0


@contextmanager
def another(fleet: Fleet, name: str, **fields: object) -> Iterator[Member]:
    """Another host, which is on.

    :param fields: what is different about it.
    """
    member = fleet.add(name, **fields)  # type: ignore[arg-type]
    try:
        yield member
    finally:
        member.host.off()


def test_a_second_host_of_a_name_is_refused_and_the_first_one_works_on(fleet: Fleet) -> None:
    with another(fleet, "clone", called="red") as clone:
        worker = fleet.join(clone)
        status = fleet.until(
            "the clone is refused",
            lambda status: any(each.address == clone.host.address for each in status.refused),
        )
        (refused,) = (each for each in status.refused if each.address == clone.host.address)
        assert "named red already" in refused.reason
        red = host_of(status, "red")
        assert red is not None
        assert red.facts.machine_id != clone.host.machine_id
        assert red.state is HostState.READY
        del worker
    client = fleet.campaign(*plan("clone", "red"))
    assert client.wait() == 0, client.output()


def test_a_host_with_another_version_of_kickbench_is_set_aside(fleet: Fleet) -> None:
    text, count = re.subn(r'__version__ = ".*"', '__version__ = "0.0.1"', VERSION.read_text())
    assert count == 1
    with another(fleet, "old") as old:
        old.host.off()
        own = old.host.folder / "__init__.py"
        own.write_text(text)
        old.host.files = {**(old.host.files or {}), VERSION: own}
        fleet.on(old.host)
        fleet.join(old)
        aside = fleet.until_state("old", HostState.SET_ASIDE)
        assert aside.reason is not None
        assert "kickbench 0.0.1" in aside.reason


STRANGER = """
import socket, ssl, sys
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as plain:
    with context.wrap_socket(plain) as secure:
        secure.sendall(b"hello")
        print(secure.recv(100))
"""


def test_a_stranger_is_refused_and_shown(fleet: Fleet, tmp_path: Path) -> None:
    with another(fleet, "stranger") as stranger:
        script = tmp_path / "stranger.py"
        script.write_text(STRANGER)
        host, _, port = fleet.address.rpartition(":")
        done = stranger.host.run(["python3", script, host, port])
        assert "ssl.SSL" in done.stderr, done
        fleet.until(
            "the stranger is shown",
            lambda status: any(each.address == stranger.host.address for each in status.refused),
        )
        refused = json.loads(fleet.cli("status", "--json").stdout)["refused"]
        assert stranger.host.address in {each["address"] for each in refused}
        assert stranger.host.address in fleet.cli("status").stdout


def test_a_certificate_that_has_expired_is_refused_by_the_host_itself(
    fleet: Fleet, tmp_path: Path
) -> None:
    with another(fleet, "expired") as expired:
        done = expired.host.run(["faketime", "-f", "+3650d", *fleet.joining()], limit_s=120)
        assert done.returncode == CertificateUnusable.exit_status
        assert "has expired" in done.stderr


def test_a_clock_that_is_hours_wrong_is_reported_and_harms_nothing(fleet: Fleet) -> None:
    with another(fleet, "late") as late:
        late.worker = late.host.start(["faketime", "-f", "+5h", *fleet.joining()])
        found = fleet.until_state("late", HostState.READY)
        assert any("ahead of" in each for each in found.notes), found.notes
        client = fleet.campaign(*plan("late", "late"))
        assert client.wait() == 0, client.output()
        assert fleet.until_ended() is CampaignState.COMPLETE
        assert_complete(fleet, "late")
