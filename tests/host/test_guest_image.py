"""The guest's own check of its memory, on real KVM."""

from __future__ import annotations

import asyncio

import pytest

from bench_lib.deadline import Deadline
from bench_lib.guest import image, qemu
from bench_lib.guest.qemu import GuestConfig
from bench_lib.guest.serial import MemoryDamage
from bench_lib.ownership import Run
from bench_lib.record import Shape
from bench_lib.settings import CHECKOUT, Settings

LIMIT_S = 60


def _config(run: Run, vcpus: int) -> GuestConfig:
    loaded = image.load(CHECKOUT / "guest-images", "gup")
    name = run.name(1, "source")
    return GuestConfig(name, Settings.from_environment().qemu, loaded, Shape(vcpus=vcpus))


@pytest.mark.parametrize("vcpus", [1, 2, 4])
def test_every_vcpu_marks_its_passes_and_finds_its_memory_whole(run: Run, vcpus: int) -> None:
    async def main() -> None:
        deadline = Deadline.after(LIMIT_S)
        async with qemu.started(run, _config(run, vcpus), deadline) as guest:
            await guest.during(guest.serial.passes(vcpus, 5, deadline))
            assert set(guest.serial.marks.passes) == set(range(vcpus))
            assert not guest.serial.marks.damage

    asyncio.run(main())


@pytest.mark.parametrize("vcpu", [0, 1])
def test_a_page_that_was_changed_from_outside_is_reported(
    run: Run, monkeypatch: pytest.MonkeyPatch, vcpu: int
) -> None:
    config = _config(run, vcpus=2)
    share = config.image.pages(config.shape.memory_mib) // 2
    page = (config.image.entry.span_start >> 12) + vcpu * share + share // 3
    plain = qemu.command_line

    def planted(config: GuestConfig, *fds: int) -> list[str]:
        word = f"loader,addr={page << 12:#x},data=0xabcdef12,data-len=8"
        return [*plain(config, *fds), "-device", word]

    monkeypatch.setattr(qemu, "command_line", planted)

    async def main() -> None:
        deadline = Deadline.after(LIMIT_S)
        async with qemu.started(run, config, deadline) as guest:

            def damaged() -> list[MemoryDamage] | None:
                return guest.serial.marks.damage or None

            found = await guest.during(deadline.poll(damaged, "The damage"))
            assert found == [MemoryDamage(vcpu, page, expected=0, found=0xABCDEF12)]

    asyncio.run(main())
