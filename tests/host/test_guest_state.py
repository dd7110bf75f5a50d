# SPDX-License-Identifier: BSD-3-Clause
"""Saved states of real guests. These guests are not Linux, so that every KVM runs them."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bench_lib.deadline import Deadline
from bench_lib.errors import GuestDied, GuestNotBooted, MigrationFailed, TrialLost
from bench_lib.guest import image, state
from bench_lib.guest.qemu import Guest, GuestConfig
from bench_lib.guest.workloads.firmware import Firmware
from bench_lib.migration import QemuManager
from bench_lib.ownership import Run
from bench_lib.record import Backing, Shape
from bench_lib.settings import CHECKOUT, Settings
from tests.conftest import HANG_S

OF = {"kernel": "this one"}


def _config(run: Run, shape: Shape) -> GuestConfig:
    workload = Firmware(image.load(CHECKOUT / "guest-images", "gup"))
    return GuestConfig(run.name(1, "source"), Settings.from_environment().qemu, workload, shape)


SHAPE = Shape(vcpus=2)


async def _saved(
    run: Run,
    path: Path,
    shape: Shape = SHAPE,
    before: Callable[[Guest], Awaitable[None] | None] = lambda _: None,
) -> state.State:
    """Save the state of a guest that is up. `before` does something to it first."""
    deadline = Deadline.after(HANG_S)
    async with AsyncExitStack() as stack:
        guest = await QemuManager(run).start(_config(run, shape), deadline, stack)
        await guest.during(guest.watch.ready(deadline))
        before(guest)
        return await state.save(guest, path, OF, 7, run.folder / "socket", deadline)


async def _restored(
    run: Run, path: Path, shape: Shape = SHAPE, limit_s: float = HANG_S
) -> dict[int, int]:
    """Start a guest from a state, let it check its memory, and return its passes."""
    deadline = Deadline.after(limit_s)
    async with AsyncExitStack() as stack:
        config = dataclasses.replace(_config(run, shape), state=state.data(path))
        guest = await QemuManager(run).start(config, deadline, stack)
        assert guest.restored
        await guest.during(guest.watch.verified(deadline))
        return guest.serial.marks.passes


def _nothing_else(run: Run, folder: Path) -> bool:
    return not [*folder.glob(f"{state.UNFINISHED}*"), *run.folder.glob("*socket")]


@pytest.mark.parametrize("backing", [Backing.ANONYMOUS, Backing.MEMFD])
def test_guests_go_on_where_a_saved_guest_was_and_find_their_memory_whole(
    run: Run, tmp_path: Path, backing: Backing
) -> None:
    path = tmp_path / "cache" / "6.1-state"
    shape = dataclasses.replace(SHAPE, backing=backing)
    saved = asyncio.run(_saved(run, path, shape))
    assert state.load(path, OF) == saved
    assert saved.boot_ns == 7
    for _ in range(2):
        assert set(asyncio.run(_restored(run, path, shape))) == {0, 1}
    assert _nothing_else(run, path.parent)


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _overwrite(file: Path) -> None:
    file.write_bytes(b"This is not a state.")


@pytest.mark.parametrize(
    ("damage", "error", "why"),
    [
        (_cut, GuestDied, "load of migration failed"),
        (_overwrite, GuestDied, "load of migration failed"),
        (Path.unlink, MigrationFailed, r"cannot be sent to QEMU .No such file or directory"),
    ],
)
def test_a_state_that_qemu_does_not_take_is_a_lost_trial(
    run: Run,
    tmp_path: Path,
    damage: Callable[[Path], None],
    error: type[TrialLost],
    why: str,
) -> None:
    """The checksum of a state shows damage before, but not that QEMU was built in another way."""
    path = tmp_path / "state"
    asyncio.run(_saved(run, path))
    damage(state.data(path))
    with pytest.raises(error, match=why):
        asyncio.run(_restored(run, path))
    assert _nothing_else(run, path.parent)


def test_the_state_of_another_kind_of_memory_is_not_taken(run: Run, tmp_path: Path) -> None:
    """So a state depends on it."""
    path = tmp_path / "state"
    asyncio.run(_saved(run, path))
    with pytest.raises(GuestDied, match=r"ramblock|RAM|ram"):
        asyncio.run(_restored(run, path, dataclasses.replace(SHAPE, backing=Backing.MEMFD)))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that a state does not fit into."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_no_part_of_a_state(run: Run, small_disk: Path) -> None:
    with pytest.raises(GuestNotBooted) as caught:
        asyncio.run(_saved(run, small_disk / "state"))
    assert str(caught.value) == (
        f"The state of the Linux guest cannot be saved in {small_disk} (No space left on device); "
        "free some space there, or set KICKBENCH_CACHE to another folder."
    )
    assert not [*small_disk.iterdir()]
    assert _nothing_else(run, small_disk)


def test_a_folder_that_cannot_be_made_is_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GuestNotBooted, match=r"cannot be saved in .*file/cache .Not a directory"):
        asyncio.run(_saved(run, tmp_path / "file" / "cache" / "state"))
    assert _nothing_else(run, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_qemu_that_ends_while_its_state_is_saved_leaves_no_part_of_it(
    run: Run, tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "cache"
    with pytest.raises(TrialLost):
        asyncio.run(_saved(run, folder / "state", before=lambda guest: guest.child.signal(number)))
    assert not folder.exists() or not [*folder.iterdir()]
    assert _nothing_else(run, folder)


def test_a_run_that_is_interrupted_while_it_saves_leaves_no_part_of_a_state(
    run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"

    def begun() -> bool | None:
        return any(each.stat().st_size for each in folder.glob(f"{state.UNFINISHED}*")) or None

    async def main() -> None:
        saving = asyncio.create_task(_saved(run, folder / "state", Shape(memory_mib=512)))
        await Deadline.after(HANG_S).poll(begun, "A part of the state")
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving

    asyncio.run(main())
    assert not [*folder.iterdir()]
    assert _nothing_else(run, folder)
