# SPDX-License-Identifier: BSD-3-Clause
"""The examples of docs/fleet, run unchanged: Ansible and tmt measure two hosts over several boots.

The hosts are simulated: each has an sshd, and a boot of it is a new start of its namespaces, with
another boot id. The trials are real. The machine itself is never booted.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench_lib import record
from bench_lib.errors import HostError
from bench_lib.host import device
from bench_lib.record import Record
from tests.conftest import CHECKOUT, NO_KVM
from tests.fleet.hosts import SimulatedHost, Switch, switched_on

pytestmark = pytest.mark.timeout(1800)

HANG_S = 800
"""Seconds that a command of the operator may take: only a hang takes as long, even on a busy
machine. tmt alone waits for half a minute per boot."""

TOOLS = ("ansible-core==2.19.14", "tmt==1.78.0")
"""What pip installs from PyPI, for these tests alone."""

EXAMPLES = CHECKOUT / "docs" / "fleet"

KICKBENCH = Path(sys.executable).with_name("kickbench")

NAMES = ("host-a", "host-b")
DOMAIN = ".example.com"

RELEASE = platform.release()
BOOTS = 2
MEASURE = "trial --scenario idle --request stop"

BOOT_INTO = "/run/boot-into"
"""The command that boots a host into the release that is appended to it."""

HOSTS_FAILED = 2
"""The exit status of Ansible if a host failed."""

SSHD = """
Port 22
HostKey {key}
AuthorizedKeysFile {authorized}
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
Subsystem sftp internal-sftp
SetEnv KICKBENCH_HISTORY={history}
"""

SSH = """
IdentityFile {key}
IdentitiesOnly yes
UserKnownHostsFile {known}
"""

HOME = "/run/home"
"""The home of root. It is empty after each boot, and short enough for the path of a socket."""

PASSWD = f"""root:x:0:0::{HOME}:/bin/bash
sshd:x:100:65534::/run/sshd:/usr/sbin/nologin
"""

SHADOW = "root:*:1::::::\nsshd:!:1::::::\n"
"""Without PAM, sshd refuses a root whose password is locked."""

FIRST_BOOT = 1_700_000_000
"""When the hosts say that they were first booted (UTC, in seconds since 1970)."""


def _key(path: Path) -> str:
    """Make a key pair, and return its public key."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", path], check=True
    )
    return path.with_name(f"{path.name}.pub").read_text()


def _users(folder: Path) -> dict[Path, Path]:
    """Files that give root another home than on this machine, by the path that they replace."""
    (folder / "passwd").write_text(PASSWD)
    (folder / "shadow").write_text(SHADOW)
    return {Path("/etc/passwd"): folder / "passwd", Path("/etc/shadow"): folder / "shadow"}


class Rebooting:
    """A host with an sshd, which boots again when a command on it asks for that.

    :ivar asked: the releases that it was asked to boot.
    """

    def __init__(self, switch: Switch, name: str, folder: Path, hidden: Path) -> None:
        """:param hidden: a folder of this machine that is not on the host, which has its own."""
        self.name = name
        self._folder = folder / name
        self._own = folder / f"{name}-files"
        for each in ("history", "var-tmp", "hidden"):
            (self._own / each).mkdir(parents=True)
        for each in ("asv.conf.json", "kernels.json"):
            shutil.copy(CHECKOUT / each, self._own / "history")
        (self._own / "stat").touch()
        self.public_key = _key(self._own / "host-key")
        self.asked: list[str] = []
        self._wish = self._own / "wish"
        os.mkfifo(self._wish)
        # Open for writing, too, so that it has no end, and that no writer waits for a reader.
        self._wishes = os.fdopen(os.open(self._wish, os.O_RDWR), "rb", buffering=0)
        command = self._own / "boot-into"
        command.write_text(f'#!/bin/sh\necho "$1" >{self._wish}\n')
        command.chmod(0o755)
        self.host = SimulatedHost(
            switch,
            name,
            self._folder,
            {"PATH": os.environ["PATH"]},
            files={
                **_users(self._own),
                Path("/proc/stat"): self._own / "stat",
                Path("/var/tmp"): self._own / "var-tmp",
                hidden: self._own / "hidden",
            },
        )

    def run(self, authorized: Path) -> None:
        """Boot the host, again and again, until `end`."""
        sshd = self._own / "sshd_config"
        sshd.write_text(
            SSHD.format(
                key=self._own / "host-key", authorized=authorized, history=self._own / "history"
            )
        )
        self._boot(sshd)
        self._thread = threading.Thread(target=self._reboots, args=[sshd])
        self._thread.start()

    def _reboots(self, sshd: Path) -> None:
        while wish := self._wishes.readline().strip():
            self.asked.append(wish.decode())
            # As in a real reboot, processes end before the network does, and close connections.
            self.host.run(["sh", "-c", "kill -s TERM -- -1"])
            self.host.off()
            self._boot(sshd)

    def _boot(self, sshd: Path) -> None:
        # tmt recognizes a boot by its time.
        (self._own / "stat").write_text(f"btime {FIRST_BOOT + len(self.asked)}\n")
        self.host.on()
        self.host.run(["mkdir", "/run/sshd", HOME])
        self.host.run(["ln", "-s", self._own / "boot-into", BOOT_INTO])
        self.host.start(["/usr/sbin/sshd", "-D", "-e", "-f", sshd])

    def end(self) -> None:
        self._wish.write_text("\n")
        self._thread.join()
        self._wishes.close()
        self.host.off()


@dataclass
class Operator:
    """The operator's machine.

    :ivar folder: a folder that the hosts do not have.
    """

    machine: SimulatedHost
    folder: Path
    known: Path
    hosts: Sequence[Rebooting]

    def run(self, *argv: str, **environment: str) -> tuple[int, str]:
        """Run a command line in the operator's folder; return its exit status and output.

        The output goes to a file, because connections of ssh, which stay for a minute, have it too.
        """
        command: list[str | Path] = ["sh", "-c", 'cd "$0" && exec "$@"', self.folder, *argv]
        process = self.machine.start(command, environment)
        return process.wait(HANG_S), process.output()

    def succeed(self, *argv: str, **environment: str) -> str:
        """Run a command line that has to exit with 0, and return its output."""
        status, output = self.run(*argv, **environment)
        assert status == 0, output
        return output

    def collected(self) -> list[Record]:
        """The records, put together as the examples say."""
        self.succeed("sh", "-c", "cat boots/*.jsonl >records.jsonl")
        records, damaged = record.read(self.folder / "records.jsonl")
        assert not damaged
        return records


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of Ansible and tmt."""
    folder = tmp_path_factory.mktemp("tools")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", *TOOLS], check=True)
    return folder / "bin"


@pytest.fixture
def operator(tmp_path: Path, tools: Path) -> Iterator[Operator]:
    """An operator, and two hosts that can be reached by ssh."""
    try:
        device.check()
    except HostError as error:
        pytest.skip(f"{NO_KVM}: {error}")
    files = tmp_path / "operator-files"
    files.mkdir()
    folder = tmp_path / "operator"
    folder.mkdir()
    authorized = files / "key.pub"
    _key(files / "key")
    with ExitStack() as stack:
        switch = stack.enter_context(Switch())
        hosts = [Rebooting(switch, name, tmp_path, folder) for name in NAMES]
        named = [(each, f"{each.host.address} {each.name}{DOMAIN}") for each in hosts]
        (files / "hosts").write_text("".join(f"{line}\n" for _, line in named))
        known = files / ".ssh" / "known_hosts"
        known.parent.mkdir()
        known.write_text("".join(f"{each.name}{DOMAIN} {each.public_key}" for each in hosts))
        (files / "ssh_config").write_text(SSH.format(key=files / "key", known=known))
        machine = SimulatedHost(
            switch,
            "operator",
            tmp_path / "operator-logs",
            {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": HOME, "LC_ALL": "C.UTF-8"},
            files={
                **_users(files),
                Path("/etc/hosts"): files / "hosts",
                Path("/etc/ssh/ssh_config"): files / "ssh_config",
            },
        )
        stack.enter_context(switched_on(machine))
        machine.run(["mkdir", HOME])
        for each in hosts:
            each.run(authorized)
            stack.callback(each.end)
        yield Operator(machine, folder, known, hosts)


def _boots(records: Sequence[Record]) -> Counter[str]:
    """The number of boots of each host."""
    return Counter(name for name, _ in {(each.host.machine, each.boot_id) for each in records})


def _check(operator: Operator, records: Sequence[Record]) -> None:
    """Check that the records are those of a whole campaign, and that kickbench can read them."""
    assert _boots(records) == dict.fromkeys(NAMES, BOOTS)
    assert len(records) == BOOTS * len(NAMES)
    assert {each.key.name for each in records} == {"stop in idle"}
    assert {(each.host.kind, each.kernel.release) for each in records} == {("native", RELEASE)}
    file = str(operator.folder / "records.jsonl")
    report = operator.succeed(str(KICKBENCH), "report", KICKBENCH_RECORDS=file)
    assert all(f"native (kvm) on {name}" in report for name in NAMES)


def _ansible(operator: Operator, **more: object) -> int:
    """Run the playbook, and return its exit status."""
    given = {
        "kickbench": KICKBENCH,
        "measure": MEASURE,
        "kernels": [RELEASE],
        "boot_into": BOOT_INTO,
        "ansible_python_interpreter": sys.executable,
        **more,
    }
    status, output = operator.run(
        *("ansible-playbook", "-i", "inventory", "campaign.yml"),
        *("-e", json.dumps(given, default=str)),
    )
    assert status in {0, HOSTS_FAILED}, output
    return status


def test_ansible_measures_hosts_over_several_boots(operator: Operator) -> None:
    for each in (EXAMPLES / "ansible").iterdir():
        shutil.copy(each, operator.folder)
    boots = operator.folder / "boots"

    assert _ansible(operator, measure="trial --scenario idle --request nothing") == HOSTS_FAILED
    assert not [*boots.iterdir()]

    assert _ansible(operator) == 0
    files = set(boots.iterdir())
    assert len(files) == len(NAMES)
    assert _ansible(operator) == 0
    assert set(boots.iterdir()) == files

    for _ in range(2):
        assert _ansible(operator, reboot=True, boots=BOOTS) == 0
        _check(operator, operator.collected())
        assert [each.asked for each in operator.hosts] == [[RELEASE]] * len(NAMES)


def test_tmt_measures_hosts_over_several_boots(operator: Operator) -> None:
    example = EXAMPLES / "tmt"
    shutil.copytree(example, operator.folder / "tmt")
    given = {
        "KICKBENCH": KICKBENCH,
        "MEASURE": MEASURE,
        "BOOTS": BOOTS,
        "KERNELS": RELEASE,
        "BOOT_INTO": BOOT_INTO,
    }
    export, run, collect, _ = _commands(example / "campaign.fmf")
    options = [f"--environment={name}='{value}'" for name, value in given.items()]
    operator.succeed(
        *("sh", "-c", f"{export}\n{run} {shlex.join(options)}"),
        HOME=str(operator.known.parent.parent),
        TMT_SSH_CONNECT_TIMEOUT="5",
        TMT_SCRIPTS_DIR="/run/tmp/scripts",
    )
    for _ in range(2):
        operator.succeed("sh", "-c", collect)
        _check(operator, operator.collected())
    assert [each.asked for each in operator.hosts] == [[RELEASE]] * len(NAMES)


def _commands(example: Path) -> list[str]:
    """The commands in the comment at the start of an example."""
    lines = example.read_text().splitlines()
    return [line.removeprefix("#   ") for line in lines if line.startswith("#   ")]
