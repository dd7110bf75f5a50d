# SPDX-License-Identifier: BSD-3-Clause
"""What `explain` prints about real guests that are stuck."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench_lib import errors
from bench_lib.deadline import Deadline
from bench_lib.guest import image
from bench_lib.record import RequestName, ScenarioName, Shape
from bench_lib.settings import Settings
from bench_lib.trial.batch import NativeRunner
from bench_lib.trial.case import Case
from bench_lib.trial.requests.monitors import Stop
from tests.host.conftest import KICKBENCH
from tests.host.fuse import SIZE_MIB, FuseServer, served, started
from tests.host.fuse import locked as holding_its_lock

LIMIT_S = 20

PAGE_DIRS = 0x100000
"""Where the image `gup` has its page directories."""

Explained = Callable[[ScenarioName, str], str]
"""Returns the JSON of `explain` for a guest that runs an image and is stuck in a scenario."""


class Qemu:
    """A guest with the image `gup` that does not run yet."""

    def __init__(self, name: str, memory: Path, program: str = "qemu-system-x86_64") -> None:
        backend = f"memory-backend-file,id=memory,size={SIZE_MIB}M,share=on,mem-path={memory}"
        gup = image.load(Settings.from_environment().images, "gup")
        self.process = subprocess.Popen(
            [program, "-name", f"guest={name},debug-threads=on", "-S",
             "-no-user-config", "-nodefaults", "-display", "none", "-machine",
             "pc,memory-backend=memory", "-accel", "kvm", "-cpu", "qemu64,-pni",
             "-m", f"{SIZE_MIB}M", "-object", backend, "-no-reboot",
             # QEMU writes to the page directories, so that they are read before the guest runs.
             # Where KVM emulates the code that fills them, the guest would get stuck there.
             "-device", f"loader,addr={PAGE_DIRS:#x},data=0,data-len=4",
             *gup.qemu_arguments(SIZE_MIB, 1), "-qmp", "stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self._line()
        self.execute("qmp_capabilities")

    def execute(self, command: str) -> None:
        """Send a command and wait for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"execute": command}))
        self.process.stdin.flush()
        while "return" not in self._line():
            pass

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line: dict[str, Any] = json.loads(self.process.stdout.readline())
        return line

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=LIMIT_S)


@pytest.fixture
def fuse(tmp_path: Path) -> Iterator[FuseServer]:
    with served(tmp_path / "mounted") as server:
        yield server


@pytest.fixture
def stranded(fuse: FuseServer) -> Iterator[Qemu]:
    """A running guest whose memory is on a file system that does not answer."""
    name = f"explained-{os.getpid()}"
    qemu = Qemu(name, fuse.file)
    try:
        fuse.hold()
        qemu.execute("cont")
        yield qemu
    finally:
        # The stall ends first, because threads that wait for it cannot be killed.
        fuse.answer()
        qemu.end()


def explain(*arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, KICKBENCH, "explain", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def vcpu_of(text: str) -> dict[str, Any]:
    """The thread of vCPU 0 of the only VMM."""
    (vmm,) = json.loads(text)["vmms"]
    (vcpu,) = [each for each in vmm["threads"] if each["role"] == "vcpu"]
    assert vcpu["vcpu"] == 0
    assert isinstance(vcpu, dict)
    return vcpu


def stuck(pid: int) -> str:
    """The JSON of `explain` once it shows that vCPU 0 is stuck."""
    limit = Deadline.after(LIMIT_S)
    while not limit.passed:
        done = explain(str(pid), "--json")
        assert done.returncode == 0, done.stderr
        if vcpu_of(done.stdout)["still"]:
            return done.stdout
    pytest.fail(f"vCPU 0 was not seen stuck: {done.stdout}")


def test_a_guest_on_a_file_system_that_does_not_answer_is_explained(stranded: Qemu) -> None:
    told = stuck(stranded.process.pid)
    vcpu = vcpu_of(told)
    assert (vcpu["state"], vcpu["entry"], vcpu["waits_for"]) == ("D", "gup", "page-cache")
    (vmm,) = json.loads(told)["vmms"]
    (file,) = vmm["files"]
    assert file["kind"] == "fuse"
    (meaning,) = vmm["meanings"]
    assert meaning["who"] == "vCPU 0"
    assert "stop" in meaning["hangs"]
    assert "SIGKILL" in meaning["works"]
    assert any(each.startswith("query-status") for each in meaning["works"])
    stranded.execute("query-status")
    number = os.minor(Path(file["path"]).parent.stat().st_dev)
    assert f"echo 1 > /sys/fs/fuse/connections/{number}/abort" in meaning["free"][-1]


def test_a_guest_is_found_by_its_name_and_without_an_argument(stranded: Qemu) -> None:
    pid = stranded.process.pid
    stuck(pid)
    named = explain(f"explained-{os.getpid()}")
    assert named.returncode == 0, named.stderr
    assert named.stdout.startswith(f"process {pid} (qemu-system-x86), guest explained-")
    assert "vCPU 0 sleeps in state D, where only SIGKILL reaches it" in named.stdout
    assert f"process {pid} " in explain().stdout
    gone = explain("no-such-guest")
    assert gone.returncode == errors.NoSuchGuest.exit_status
    assert f"explained-{os.getpid()}" in gone.stderr


def test_another_user_is_shown_what_could_not_be_seen(stranded: Qemu) -> None:
    stuck(stranded.process.pid)
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    done = explain(str(stranded.process.pid), prefix=nobody)
    assert done.returncode == 0, done.stderr
    assert "not seen: kernel stacks, which only root may read" in done.stdout
    assert "vCPU 0" in done.stdout
    other = explain(str(os.getppid()), prefix=nobody)
    assert other.returncode == errors.ProcessHidden.exit_status


@pytest.fixture
def locked(fuse: FuseServer) -> Iterator[subprocess.Popen[bytes]]:
    with holding_its_lock(fuse) as child:
        yield child


def test_a_process_whose_memory_lock_is_held_is_explained_without_its_name(
    locked: subprocess.Popen[bytes],
) -> None:
    done = explain(str(locked.pid), "--json")
    assert done.returncode == 0, done.stderr
    (vmm,) = json.loads(done.stdout)["vmms"]
    assert vmm["name"] is None
    assert any("command line cannot be read" in each for each in vmm["hidden"])
    holds, waits = vmm["meanings"]
    waiting = [each["waits_for"] for each in vmm["threads"] if each["tid"] in waits["tids"]]
    assert waiting == ["lock"]
    assert waits["free"][0].startswith(f"It goes on when {holds['who']} does")
    assert "not even SIGKILL" in holds["sentence"]


EXECUTES = """
import mmap, os, sys
memory = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 1 << 20)
memory[0] = 1
os.write(1, b"up\\n")
os.read(0, 1)
os.execvp("sleep", ["sleep", "60"])
"""
"""exec unmaps the memory of the process, and the kernel writes the dirty page first."""


def test_explain_waits_for_no_process_that_the_kernel_does_not_show(fuse: FuseServer) -> None:
    with started(fuse, sys.executable, "-c", EXECUTES) as (child, stdin):
        stdin.write(b"!")
        limit = Deadline.after(LIMIT_S)
        while (done := explain(str(child.pid))).returncode == errors.NotAVmm.exit_status:
            assert not limit.passed
        assert done.returncode == errors.ProcessBlocked.exit_status, done.stderr
        assert f"did not show process {child.pid}" in done.stderr
        everything = explain()
        assert everything.returncode == 0
        assert f"Process {child.pid} could not be read" in everything.stderr


def _child_of(parent: int) -> int | None:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(children[0]) if children else None


def test_a_vcpu_that_spins_is_caught_in_its_page_fault(clean_host: Path, runtime: Path) -> None:
    """Its stack is empty most of the time, and its name does not show that it is a vCPU."""
    probe = subprocess.Popen(
        [KICKBENCH, "probe", "--case", "uaccess", "-n", "1", "--deadline", "60"],
        stdout=subprocess.PIPE,
    )
    try:
        limit = Deadline.after(LIMIT_S)
        while not limit.passed:
            worker = _child_of(probe.pid)
            done = explain(str(worker), "--json")
            meanings = json.loads(done.stdout)["vmms"][0]["meanings"] if done.stdout else []
            spins = bool(meanings) and meanings[0]["sentence"].startswith("spins")
            if spins and '"uaccess"' in done.stdout:
                break
        vcpu = vcpu_of(done.stdout)
        assert (vcpu["entry"], vcpu["waits_for"]) == ("uaccess", "userfault")
        assert vcpu["signals"] == ["SIGUSR1"]
        assert "stop" in meanings[0]["hangs"]
        assert "SIGKILL" in meanings[0]["works"]
    finally:
        probe.send_signal(signal.SIGINT)
        probe.communicate(timeout=LIMIT_S)


@pytest.fixture
def explained(clean_host: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Explained:
    """Makes a trial of `stop`, and returns the JSON of `explain` just before the request."""
    told: list[str] = []
    send = Stop.send

    async def explain_and_send(self: Stop) -> None:
        told.append(await asyncio.to_thread(stuck, self.guest.child.pid))
        await send(self)

    def run(scenario: ScenarioName, image: str) -> str:
        case = Case(scenario, RequestName.STOP, Shape(image=image))
        (made,) = NativeRunner(Settings.from_environment()).run([case], lambda record: None)
        assert told, made.reason
        return told[0]

    monkeypatch.setattr(Stop, "send", explain_and_send)
    monkeypatch.setenv("KICKBENCH_DEADLINE", "3")
    return run


def test_a_guest_that_is_stuck_in_postcopy_is_explained(explained: Explained) -> None:
    told = explained(ScenarioName.BLACKHOLE, "gup")
    vcpu = vcpu_of(told)
    assert (vcpu["entry"], vcpu["waits_for"]) == ("gup", "userfault")
    (meaning,) = json.loads(told)["vmms"][0]["meanings"]
    assert any("migrate-recover" in step for step in meaning["free"])
    assert meaning["avoid"] == []


def test_a_guest_that_shares_a_page_with_kvm_is_explained_by_that_page(
    explained: Explained,
) -> None:
    told = explained(ScenarioName.FROZEN_SOURCE, "pv-steal-time")
    vcpu = vcpu_of(told)
    assert (vcpu["entry"], vcpu["waits_for"]) == ("uaccess", "userfault")
    (meaning,) = json.loads(told)["vmms"][0]["meanings"]
    assert "steal time" in meaning["sentence"]
    assert "only the source can send it" in meaning["sentence"]
    assert "stop" in meaning["hangs"]
    (avoid,) = meaning["avoid"]
    assert "kvm-steal-time=off" in avoid
