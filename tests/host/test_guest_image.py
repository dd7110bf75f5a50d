# SPDX-License-Identifier: BSD-3-Clause
"""The guest's check of its own memory, on real KVM."""

from __future__ import annotations

import asyncio

import pytest

from bench_lib.deadline import Deadline
from bench_lib.guest import image, qemu
from bench_lib.guest.qemu import GuestConfig
from bench_lib.guest.serial import MemoryDamage
from bench_lib.guest.workloads.firmware import Firmware
from bench_lib.host import setup
from bench_lib.ownership import Run
from bench_lib.record import Shape
from bench_lib.settings import CHECKOUT, Settings
from tests.conftest import HANG_S

FOLDER = CHECKOUT / "guest-images"
every_image = pytest.mark.parametrize("name", image.manifest(FOLDER))


ABOVE_HOLE_MIB = 3586
"""The memory of a guest that has some above the hole for devices, which then starts at 3 GiB."""


def _config(run: Run, name: str, vcpus: int, memory_mib: int = 16) -> GuestConfig:
    workload = Firmware(image.load(FOLDER, name))
    guest = run.name(1, "source")
    shape = Shape(vcpus=vcpus, memory_mib=memory_mib)
    return GuestConfig(guest, Settings.from_environment().qemu, workload, shape)


@every_image
@pytest.mark.parametrize("vcpus", [1, 2, 32])
def test_every_vcpu_marks_its_passes_and_finds_its_memory_whole(
    run: Run, name: str, vcpus: int
) -> None:
    async def main() -> None:
        deadline = Deadline.after(HANG_S)
        async with qemu.started(run, _config(run, name, vcpus), deadline) as guest:
            await guest.during(guest.serial.passes(vcpus, 5, deadline))
            assert set(guest.serial.marks.passes) == set(range(vcpus))
            assert not guest.serial.reports.damage

    asyncio.run(main())


@every_image
@pytest.mark.parametrize("vcpu", [0, 1])
@pytest.mark.parametrize("word", [0xABCDEF12, 0xABCDEF12 << 32])
def test_a_page_that_was_changed_from_outside_is_reported(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, vcpu: int, word: int
) -> None:
    config = _config(run, name, vcpus=2)
    loaded = image.load(FOLDER, name)
    share = loaded.pages(config.shape.memory_mib) // 2
    page = (loaded.entry.span_start >> 12) + vcpu * share + share // 3
    assert _reported(run, monkeypatch, config, page, word) == [MemoryDamage(vcpu, page, 0, word)]


@pytest.mark.skipif(
    (setup.memory_mib("MemAvailable") or 0) < 2 * ABOVE_HOLE_MIB,
    reason="this host has too little memory",
)
@pytest.mark.parametrize("page", [0xBFFFF, 0x100000, 0x100000 + (514 << 8) - 1])
def test_a_page_beside_the_hole_is_checked_and_reported_by_its_physical_address(
    run: Run, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    config = _config(run, "gup", 2, ABOVE_HOLE_MIB)
    assert _reported(run, monkeypatch, config, page, 0xABC) == [MemoryDamage(1, page, 0, 0xABC)]


def _reported(
    run: Run, monkeypatch: pytest.MonkeyPatch, config: GuestConfig, page: int, word: int
) -> list[MemoryDamage]:
    """Start a guest one of whose pages already has another word, and return what it reports."""
    plain = qemu.command_line

    def planted(config: GuestConfig, *fds: int) -> list[str]:
        loader = f"loader,addr={page << 12:#x},data={word:#x},data-len=8"
        return [*plain(config, *fds), "-device", loader]

    monkeypatch.setattr(qemu, "command_line", planted)

    async def main() -> list[MemoryDamage]:
        deadline = Deadline.after(HANG_S)
        async with qemu.started(run, config, deadline) as guest:

            def damaged() -> list[MemoryDamage] | None:
                return guest.serial.reports.damage or None

            return await guest.during(deadline.poll(damaged, "The damage"))

    return asyncio.run(main())
