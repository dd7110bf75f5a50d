# SPDX-License-Identifier: BSD-3-Clause
"""Several labs at once; their records come as if one lab had run after the other."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from functools import partial

import pytest

from bench_lib.errors import LabLost, LabUnavailable, UsageError
from bench_lib.lab import parallel, qemu, trials
from bench_lib.lab.parallel import Keep, OnBoot
from bench_lib.lab.vm import Facts
from bench_lib.record import Record, RequestName, ScenarioName
from bench_lib.settings import Settings
from bench_lib.trial.case import Case
from tests import make

LIMIT_S = 60


class _Works:
    """Works that each make two records, the second when the test lets them."""

    def __init__(self, count: int) -> None:
        self.running: set[int] = set()
        self.cancelled: set[int] = set()
        self.came: list[tuple[int, int]] = []
        self.told: list[str] = []
        self.done: list[int] = []
        self._events = [asyncio.Event() for _ in range(count)]
        self._failing: dict[int, Exception] = {}

    async def _work(self, index: int, keep: Keep, on_boot: OnBoot) -> None:
        self.running.add(index)
        on_boot(Facts(f"kernel {index}", "#1", "tcg", 1.0))
        keep(make.record(seq=1))
        try:
            await self._events[index].wait()
        except asyncio.CancelledError:
            self.cancelled.add(index)
            raise
        finally:
            self.running.discard(index)
        if index in self._failing:
            raise self._failing[index]
        keep(make.record(seq=2))

    def finish(self, index: int, failing: Exception | None = None) -> None:
        if failing is not None:
            self._failing[index] = failing
        self._events[index].set()

    async def run(self, at_once: int) -> None:
        def on_record(index: int, made: Record) -> None:
            self.came.append((index, made.seq))
            self.told.append(f"{index} made {made.seq}")

        def on_boot(facts: Facts) -> None:
            self.told.append(facts.release)

        works = [partial(self._work, index) for index in range(len(self._events))]
        await parallel.run(works, at_once, on_record, on_boot, self.done.append)


async def _settled() -> None:
    """Let every task run until it waits for the test."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_no_more_labs_run_than_were_asked_for() -> None:
    async def scene() -> None:
        works = _Works(4)
        running = asyncio.create_task(works.run(2))
        await _settled()
        assert works.running == {0, 1}
        works.finish(1)
        await _settled()
        assert works.running == {0, 2}
        for index in (0, 2, 3):
            works.finish(index)
        await asyncio.wait_for(running, LIMIT_S)

    asyncio.run(scene())


def test_records_of_a_lab_that_is_ahead_wait_for_those_before() -> None:
    async def scene() -> None:
        works = _Works(3)
        running = asyncio.create_task(works.run(3))
        works.finish(2)
        works.finish(1)
        await _settled()
        assert works.came == [(0, 1)]
        assert works.done == []
        works.finish(0)
        await asyncio.wait_for(running, LIMIT_S)
        assert works.came == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]
        assert works.done == [0, 1, 2]

    asyncio.run(scene())


def test_a_record_follows_the_boot_that_it_was_made_in() -> None:
    """A trial's line does not name the kernel; only the line of its boot does."""

    async def scene() -> None:
        works = _Works(2)
        running = asyncio.create_task(works.run(2))
        works.finish(1)
        await _settled()
        works.finish(0)
        await asyncio.wait_for(running, LIMIT_S)
        assert works.told == [
            *("kernel 0", "0 made 1", "0 made 2"),
            *("kernel 1", "1 made 1", "1 made 2"),
        ]

    asyncio.run(scene())


def test_the_first_failure_in_order_ends_all_and_keeps_the_records_before_it() -> None:
    async def scene() -> None:
        works = _Works(4)
        running = asyncio.create_task(works.run(4))
        works.finish(2, failing=LabLost("the third", ()))
        await _settled()
        works.finish(1, failing=LabLost("the second", ()))
        await _settled()
        assert not running.done()
        works.finish(0)
        with pytest.raises(LabLost, match="the second"):
            await asyncio.wait_for(running, LIMIT_S)
        assert works.done == [0]
        assert works.came == [(0, 1), (0, 2), (1, 1)]
        assert works.cancelled == {3}

    asyncio.run(scene())


def test_a_cancelled_run_cancels_its_labs() -> None:
    async def scene() -> None:
        works = _Works(2)
        running = asyncio.create_task(works.run(2))
        await _settled()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(running, LIMIT_S)
        assert works.cancelled == {0, 1}

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("accelerator", "cpus", "memory_mib", "expected"),
    [
        ("tcg", 2, 16384, 1),
        ("tcg", 8, 16384, 4),
        ("tcg", 8, 5000, 2),
        ("tcg", 1, 1000, 1),
        ("kvm", 8, 16384, 1),
    ],
)
def test_there_are_as_many_labs_as_there_is_room_for(
    history: object,
    monkeypatch: pytest.MonkeyPatch,
    accelerator: str,
    cpus: int,
    memory_mib: int,
    expected: int,
) -> None:
    monkeypatch.setattr(qemu, "accelerator", lambda: accelerator)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cpus)))
    monkeypatch.setattr("bench_lib.host.setup.memory_mib", lambda name: memory_mib)
    assert parallel.jobs(Settings.from_environment()) == expected


def test_a_setting_gives_the_number_of_labs(
    history: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench_lib.host.setup.memory_mib", lambda name: 3 * 2048 + 512)
    monkeypatch.setenv("KICKBENCH_JOBS", "3")
    assert parallel.jobs(Settings.from_environment()) == 3


def test_no_more_labs_may_be_asked_for_than_there_is_memory_for(
    history: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench_lib.host.setup.memory_mib", lambda name: 3 * 2048 + 512)
    monkeypatch.setenv("KICKBENCH_JOBS", "4")
    with pytest.raises(LabUnavailable, match=r"4 labs at once need 4 times 2048 MiB.* --jobs"):
        parallel.jobs(Settings.from_environment())


@pytest.mark.parametrize(
    ("count", "labs", "expected"),
    [(24, 1, [24]), (24, 3, [8, 8, 8]), (9, 4, [4, 5]), (3, 4, [3])],
)
def test_cases_are_shared_in_order_and_no_lab_is_booted_for_few(
    count: int, labs: int, expected: list[int]
) -> None:
    of_one_shape = Case(ScenarioName.IDLE, RequestName.STOP)
    cases = [dataclasses.replace(of_one_shape, scenario=each) for each in _cycle(count)]
    parts = trials.shares(cases, labs)
    assert [len(part) for part in parts] == expected
    assert [each for part in parts for each in part] == cases


def _cycle(count: int) -> list[ScenarioName]:
    names = itertools.cycle(ScenarioName)
    return [next(names) for _ in range(count)]


@pytest.mark.parametrize("text", ["0", "-1", "junk", "1.5", "²", "1" * 5000])
def test_a_number_of_labs_that_is_not_a_positive_integer_is_refused(
    history: object, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("KICKBENCH_JOBS", text)
    with pytest.raises(UsageError, match=r"KICKBENCH_JOBS has to be a whole number of at least 1"):
        Settings.from_environment()


def test_a_number_may_be_larger_than_any_host_has(
    history: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check against the host's memory comes later."""
    monkeypatch.setenv("KICKBENCH_LAB_MEMORY", str(1 << 30))
    assert Settings.from_environment().lab_memory_mib == 1 << 30
