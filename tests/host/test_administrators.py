# SPDX-License-Identifier: BSD-3-Clause
"""Requests of administrators to the kernel: looks at a process, its freezing, and its core."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from bench_lib import ownership, process, threads
from bench_lib.deadline import Deadline
from bench_lib.errors import FreezerLeft, FreezerMissing, GuestDied, LookFailed
from bench_lib.host import freezer
from bench_lib.ownership import Run
from bench_lib.record import HUNG, Outcome, Record, RequestName, ScenarioName, WaitsFor
from bench_lib.settings import Settings
from bench_lib.trial import leftovers
from bench_lib.trial.batch import NativeRunner
from bench_lib.trial.case import Case
from bench_lib.trial.requests.freezing import CgroupFreeze
from bench_lib.trial.requests.looks import Look, ProcMaps, Ps
from bench_lib.trial.scene import Scene
from tests.conftest import HANG_S
from tests.host.conftest import KICKBENCH, all_that_is_left, runner
from tests.host.fuse import FuseServer, locked, served
from tests.host.test_bad_days import _drive

SLEEPS = ("sleep", "600")


def _trial(case: Case) -> Record:
    (made,) = NativeRunner(Settings.from_environment()).run([case], lambda record: None)
    return made


def _scene(run: Run, pid: int) -> Scene:
    """A scene with a process that is not a guest."""
    child = SimpleNamespace(pid=pid)
    guest = SimpleNamespace(child=child, name=run.name(1, "destination"))
    return cast(Scene, SimpleNamespace(run=run, guest=guest, tids=[pid]))


def _kill(pid: int) -> None:
    """Kill a child, and wait until it is dead, but do not reap it."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@pytest.fixture
def sleeper(run: Run) -> Iterator[process.Child]:
    with process.started(SLEEPS, env=run.mark, output=subprocess.DEVNULL) as child:
        yield child


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FuseServer]:
    with served(tmp_path / "mounted") as made:
        yield made


class CatOfLocked(ProcMaps):
    """Reads the command line, because newer kernels show the map of memory without the lock."""

    shown = b"locked.py"

    def command(self) -> list[str]:
        return ["cat", "-", f"/proc/{self.guest.child.pid}/cmdline"]


class PsOfLocked(Ps):
    """Waits for the command line of locked.py."""

    shown = b"locked.py"


@pytest.mark.parametrize("look", [CatOfLocked, PsOfLocked])
def test_a_look_at_a_process_whose_memory_lock_is_held_hangs_until_it_is_let_go(
    run: Run, server: FuseServer, look: type[Look]
) -> None:
    async def looked(pid: int) -> None:
        async with AsyncExitStack() as stack:
            request = look(_scene(run, pid))
            await request.prepare(Deadline.after(HANG_S), stack)
            await request.send()
            assert await request.answer(Deadline.after(0.5)) is None
            why = request.hang()
            assert why is not None
            name = "cat" if look is CatOfLocked else "ps"
            assert why.startswith(f"{name} waited in state D, for a lock: "), why
            server.answer()
            reply = await request.answer(Deadline.after(HANG_S))
            assert reply is not None
            assert reply.latency_ns > 0.5e9

    with locked(server) as child:
        asyncio.run(looked(child.pid))


@pytest.mark.parametrize("look", [CatOfLocked, PsOfLocked])
def test_a_program_that_hangs_is_killed_with_the_trial(
    run: Run, server: FuseServer, look: type[Look]
) -> None:
    """The lock is still held then: SIGKILL ends a wait for mmap_lock in /proc."""

    async def looked(pid: int) -> None:
        async with AsyncExitStack() as stack:
            request = look(_scene(run, pid))
            await request.prepare(Deadline.after(HANG_S), stack)
            await request.send()
            assert await request.answer(Deadline.after(0.2)) is None
        assert request._child.survivor is None
        assert request._child.exit_status == -signal.SIGKILL

    with locked(server) as child:
        asyncio.run(looked(child.pid))


def test_a_look_at_a_process_that_is_dead_finds_that_out(run: Run, sleeper: process.Child) -> None:
    async def looked() -> None:
        async with AsyncExitStack() as stack:
            request = ProcMaps(_scene(run, sleeper.pid))
            await request.prepare(Deadline.after(HANG_S), stack)
            _kill(sleeper.pid)
            await request.send()
            with pytest.raises(GuestDied, match=f"Process {sleeper.pid} has ended"):
                await request.answer(Deadline.after(HANG_S))

    asyncio.run(looked())


def test_a_program_that_fails_by_itself_is_not_an_answer(
    run: Run, sleeper: process.Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ps, "command", lambda self: ["sh", "-c", "echo ps: broken >&2; exit 3"])

    async def looked() -> None:
        async with AsyncExitStack() as stack:
            request = Ps(_scene(run, sleeper.pid))
            await request.prepare(Deadline.after(HANG_S), stack)
            await request.send()
            with pytest.raises(LookFailed, match=r"exited with status 3 .* 'ps: broken'"):
                await request.answer(Deadline.after(HANG_S))

    asyncio.run(looked())


@pytest.fixture(params=[1, 2])
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A version of cgroups that this machine has mounted, and which is used."""
    chosen: int = request.param
    monkeypatch.setattr(freezer, "_has_version_1", lambda: chosen == 1)
    top = freezer._open_mounted(chosen)
    assert top is not None, f"cgroup version {chosen} is not mounted; run these tests where it is"
    os.close(top)
    return chosen


def test_a_process_is_frozen_and_thawed_and_its_cgroup_is_removed(
    run: Run, sleeper: process.Child, version: int
) -> None:
    scene = _scene(run, sleeper.pid)

    async def frozen() -> None:
        async with AsyncExitStack() as stack:
            request = CgroupFreeze(scene)
            await request.prepare(Deadline.after(HANG_S), stack)
            assert request.tool == f"freezer of cgroup version {version}"
            assert scene.guest.name in freezer.existing()
            await request.send()
            reply = await request.answer(Deadline.after(HANG_S))
            assert reply is not None
            assert (reply.resolution_ns is not None) == (version == 1)
            await request.undo(Deadline.after(HANG_S))
        assert scene.guest.name not in freezer.existing()
        sleeper.signal(signal.SIGTERM)
        assert await sleeper.reaped(Deadline.after(HANG_S)) is not None

    asyncio.run(frozen())


def test_a_cgroup_that_the_process_has_left_is_no_answer(
    run: Run, sleeper: process.Child, version: int
) -> None:
    """An empty cgroup of version 2 is frozen at once."""

    async def frozen() -> None:
        async with AsyncExitStack() as stack:
            request = CgroupFreeze(_scene(run, sleeper.pid))
            await request.prepare(Deadline.after(HANG_S), stack)
            with freezer.hierarchy() as cgroups:
                cgroups._write("cgroup.procs", b"%d" % sleeper.pid)
            await request.send()
            with pytest.raises(FreezerLeft, match="moved out of the cgroup"):
                await request.answer(Deadline.after(HANG_S))

    asyncio.run(frozen())


def test_a_process_that_has_ended_in_the_cgroup_is_not_frozen(
    run: Run, sleeper: process.Child, version: int
) -> None:
    async def frozen() -> None:
        async with AsyncExitStack() as stack:
            request = CgroupFreeze(_scene(run, sleeper.pid))
            await request.prepare(Deadline.after(HANG_S), stack)
            _kill(sleeper.pid)
            await request.send()
            with pytest.raises(GuestDied, match=f"Process {sleeper.pid} has ended"):
                await request.answer(Deadline.after(HANG_S))

    asyncio.run(frozen())


def test_a_process_with_a_thread_that_cannot_freeze_is_frozen_when_it_can(
    run: Run, server: FuseServer, version: int
) -> None:
    async def frozen(pid: int) -> None:
        async with AsyncExitStack() as stack:
            request = CgroupFreeze(_scene(run, pid))
            await request.prepare(Deadline.after(HANG_S), stack)
            await request.send()
            assert await request.answer(Deadline.after(0.3)) is None
            called = {each.waits_for for each in threads.observe_all(pid) if request.called(each)}
            assert called == {WaitsFor.FUSE, WaitsFor.LOCK}
            server.answer()
            assert await request.answer(Deadline.after(HANG_S)) is not None
            assert not any(map(request.called, threads.observe_all(pid)))
            assert request.withdraw()

    with locked(server) as child:
        asyncio.run(frozen(child.pid))
        assert child.poll() is None


def test_a_frozen_process_of_a_dead_run_is_thawed_killed_and_its_cgroup_removed(
    clean_host: Path, runtime: Path, version: int
) -> None:
    with ownership.measuring(runtime) as dead:
        name = dead.name(1, "destination")
    with (
        process.started(SLEEPS, env=dead.mark, output=subprocess.DEVNULL) as child,
        freezer.hierarchy() as cgroups,
        ExitStack() as stack,
    ):
        os.mkdir(name, dir_fd=cgroups.top)  # relative to a folder
        left = freezer.Freezer(cgroups, name, stack)
        left.add(child.pid)
        left.freeze()
        assert leftovers.find(runtime).lines() == [f"process {child.pid} (sleep)", f"cgroup {name}"]
        leftovers.end(runtime)
        assert child.exit_status == -signal.SIGKILL
        assert name not in freezer.existing()


def test_after_a_kill_clean_leaves_nothing_of_a_frozen_guest(
    clean_host: Path, runtime: Path
) -> None:
    done = _drive("blackhole", "evidence", "killed", 0, "--request", "cgroup-freeze")
    assert done.returncode == -9, done.stderr
    assert len(leftovers.find(runtime).cgroups) == 1
    leftovers.end(runtime)
    assert not all_that_is_left(runtime)


def test_a_machine_without_a_freezer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freezer, "_has_version_1", lambda: True)
    monkeypatch.setattr(freezer, "_open_mounted", lambda version: None)
    with pytest.raises(FreezerMissing, match="version 1 here: it is not mounted"):
        freezer.check()
    assert freezer.existing() == []


@pytest.mark.parametrize("scenario", [ScenarioName.IDLE, ScenarioName.BLACKHOLE])
def test_a_core_is_dumped_and_none_is_left(
    clean_host: Path, runtime: Path, scenario: ScenarioName
) -> None:
    made = _trial(Case(scenario, RequestName.CORE_DUMP))
    assert made.outcome is Outcome.RETURNED, made.reason
    assert not list(Path.cwd().glob("*core*"))
    assert not [each for each in runtime.iterdir() if each.is_dir()]


def test_a_core_is_dumped_although_a_shell_makes_its_background_jobs_ignore_sigquit(
    clean_host: Path,
) -> None:
    made = f"{KICKBENCH} trial --scenario idle --request core-dump"
    done = runner(Path("/bin/sh"))("-c", f"{made} & wait $!")
    assert "core-dump in idle: returned" in done.stdout, done.stderr


def test_an_end_without_a_core_is_a_refusal(
    clean_host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = resource.prlimit
    monkeypatch.setattr(
        resource, "prlimit", lambda pid, which, limits: raised(pid, which, (0, limits[1]))
    )
    made = _trial(Case(ScenarioName.IDLE, RequestName.CORE_DUMP))
    assert made.outcome is Outcome.REFUSED
    assert made.reason == "QEMU ended by SIGQUIT, but the kernel dumped no core of it."
    assert made.latency_ns is not None


def test_memory_that_hangs_beside_a_stuck_vcpu_is_plugged_when_the_page_arrives(
    clean_host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it hangs is the kernel's matter. The guest is whole in either case."""
    monkeypatch.setenv("KICKBENCH_DEADLINE", "0.5")
    made = _trial(Case(ScenarioName.BLACKHOLE, RequestName.PLUG_MEMORY, recover=True))
    assert made.outcome in {Outcome.RETURNED, *HUNG}, made.reason
    assert made.recovery is not None
    assert made.recovery.memory == "whole", made.recovery
