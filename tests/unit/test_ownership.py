# SPDX-License-Identifier: BSD-3-Clause
"""Which runs live, which are dead, and what belongs to them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench_lib import lock, ownership
from bench_lib.errors import HostBusy, HostError
from tests.conftest import CHECKOUT, HANG_S


def _home(runtime: Path) -> str:
    with ownership.measuring(runtime) as run:
        return run.id[: ownership.HOME_DIGITS]


def test_another_folder_of_the_same_path_is_another_home(tmp_path: Path) -> None:
    """As in a container or a chroot: a run that is dead there may live here."""
    path = tmp_path / "run" / "kickbench"
    before = _home(path)
    (tmp_path / "run").rename(tmp_path / "of-another-root")
    assert _home(path) != before


def test_a_folder_that_was_deleted_is_the_same_home_when_it_is_made_again(tmp_path: Path) -> None:
    with ownership.measuring(tmp_path / "runtime") as run:
        pass
    (tmp_path / "runtime").rename(tmp_path / "away")
    with ownership.registry(tmp_path / "runtime"):
        assert ownership.is_dead(tmp_path / "runtime", run.id)


def test_a_folder_by_another_path_is_the_same_home(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert _home(tmp_path / "runtime") == _home(tmp_path / "link" / "runtime")


def test_every_id_is_a_limit_that_is_never_set_otherwise(tmp_path: Path) -> None:
    with ownership.measuring(tmp_path / "runtime") as run:
        assert ownership.RUN_ID.fullmatch(run.id)
        assert int(run.id, 16) >= 1 << 47


RUN = """
import sys
from pathlib import Path
from bench_lib import ownership
with ownership.measuring(Path(sys.argv[1])) as run:
    print(run.id, flush=True)
    sys.stdin.readline()
"""
"""Prints the id of a run, which lives until the end of stdin."""


@contextmanager
def _another_run(runtime: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The id of a run of another process, which lives until it is killed, or the context ends."""
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(runtime)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        text=True,
    ) as other:
        assert other.stdout is not None
        yield other.stdout.readline().strip(), other


def test_a_run_that_lives_is_not_dead_and_one_that_was_killed_is(tmp_path: Path) -> None:
    with _another_run(tmp_path) as (run_id, other):
        with ownership.registry(tmp_path):
            assert not ownership.is_dead(tmp_path, run_id)
            assert ownership.dead_folders(tmp_path) == []
        other.kill()
        other.wait()
        with ownership.registry(tmp_path):
            assert ownership.is_dead(tmp_path, run_id)
            assert ownership.dead_folders(tmp_path) == [tmp_path / run_id]


def test_the_next_run_starts_beside_what_a_killed_one_left(tmp_path: Path) -> None:
    with _another_run(tmp_path) as (dead, other):
        other.kill()
    with ownership.measuring(tmp_path) as run, ownership.registry(tmp_path):
        assert run.id != dead
        assert ownership.dead_folders(tmp_path) == [tmp_path / dead]
        assert not ownership.is_dead(tmp_path, run.id)


def test_a_run_of_another_runtime_folder_is_not_this_ones_dead(tmp_path: Path) -> None:
    with ownership.measuring(tmp_path / "other") as run:
        pass
    with ownership.registry(tmp_path / "runtime"):
        assert not ownership.is_dead(tmp_path / "runtime", run.id)
    with ownership.registry(tmp_path / "other"):
        assert ownership.is_dead(tmp_path / "other", run.id)


def test_only_folders_that_are_named_as_runs_are_of_runs(tmp_path: Path) -> None:
    for name in ("0123456789ab", "8123456789a", "8123456789abc", "8123456789aB", "mine"):
        (tmp_path / name).mkdir()
    (tmp_path / "8123456789ac").touch()
    (tmp_path / "8123456789ad").mkdir()
    with ownership.registry(tmp_path):
        assert ownership.dead_folders(tmp_path) == [tmp_path / "8123456789ad"]


def test_a_run_that_fails_leaves_no_folder_and_no_lock(tmp_path: Path) -> None:
    folders: list[Path] = []

    def fail() -> None:
        with ownership.measuring(tmp_path) as run:
            folders.append(run.folder)
            (run.folder / "file").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not folders[0].exists()
    ownership.refuse_if_busy(tmp_path)


def test_a_second_run_is_refused_with_the_process_of_the_first(tmp_path: Path) -> None:
    with _another_run(tmp_path) as (run_id, other):
        with (
            pytest.raises(HostBusy, match=rf"process {other.pid}\b"),
            ownership.measuring(tmp_path),
        ):
            pytest.fail("there are two runs")
        with pytest.raises(HostBusy):
            ownership.refuse_if_busy(tmp_path)
        assert [each.name for each in tmp_path.iterdir() if each.is_dir()] == [run_id]


def test_runs_that_share_the_host_measure_at_the_same_time(tmp_path: Path) -> None:
    with (
        ownership.measuring(tmp_path, shared=True) as first,
        ownership.measuring(tmp_path, shared=True) as second,
        ownership.registry(tmp_path),
    ):
        assert first.id != second.id
        assert ownership.dead_folders(tmp_path) == []


def test_a_run_that_does_not_share_the_host_is_refused_until_the_last_of_the_others_ends(
    tmp_path: Path,
) -> None:
    with ownership.measuring(tmp_path, shared=True):
        with ownership.measuring(tmp_path, shared=True):
            pass
        with (
            pytest.raises(HostBusy, match="labs that a fleet has given to this host are"),
            ownership.measuring(tmp_path),
        ):
            pytest.fail("a lab runs beside it")
    ownership.refuse_if_busy(tmp_path)


def test_a_run_that_shares_the_host_is_refused_beside_one_that_does_not(tmp_path: Path) -> None:
    with (
        _another_run(tmp_path) as (_, other),
        pytest.raises(HostBusy, match=rf"process {other.pid}\b"),
        ownership.measuring(tmp_path, shared=True),
    ):
        pytest.fail("there is a lab beside another run")


def test_of_many_that_start_at_once_one_measures(tmp_path: Path) -> None:
    count = 8
    together, refused = threading.Barrier(count), threading.Semaphore(0)

    def start(_: int) -> bool:
        together.wait(HANG_S)
        try:
            with ownership.measuring(tmp_path):
                for _ in range(count - 1):
                    assert refused.acquire(timeout=HANG_S)
        except HostBusy:
            refused.release()
            return False
        return True

    with ThreadPoolExecutor(count) as pool:
        assert sorted(pool.map(start, range(count))) == [False] * (count - 1) + [True]


def test_a_folder_that_is_not_locked_yet_is_not_taken_for_a_dead_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dead_folders() needs the registry, which `measuring` holds until it has locked the folder."""
    take = lock.take
    free: list[bool] = []

    def taken(path: Path, flags: int, *, wait: bool, shared: bool = False) -> int | None:
        if ownership.RUN_ID.fullmatch(path.name):
            assert path.is_dir()
            fd = take(tmp_path / "registry.lock", os.O_RDWR, wait=False)
            free.append(fd is not None)
        return take(path, flags, wait=wait, shared=shared)

    monkeypatch.setattr(lock, "take", taken)
    with ownership.measuring(tmp_path):
        pass
    assert free == [False]


@pytest.mark.parametrize("text", ["", "4711", "4711\n" * 1000, "not a number\n"])
def test_what_a_killed_run_wrote_into_the_lock_does_not_matter(tmp_path: Path, text: str) -> None:
    (tmp_path / "measuring.lock").write_text(text)
    with ownership.measuring(tmp_path):
        assert (tmp_path / "measuring.lock").read_text() == f"{os.getpid()}\n"


def test_a_first_run_that_has_not_written_its_process_yet_is_one_all_the_same(
    tmp_path: Path,
) -> None:
    with ownership.measuring(tmp_path):
        (tmp_path / "measuring.lock").write_text("")
        with pytest.raises(HostBusy):
            ownership.refuse_if_busy(tmp_path)


def test_a_lock_that_is_not_text_still_shows_that_a_run_measures(tmp_path: Path) -> None:
    with ownership.measuring(tmp_path):
        (tmp_path / "measuring.lock").write_bytes(b"\xff\xfe")
        with pytest.raises(HostBusy):
            ownership.refuse_if_busy(tmp_path)


@pytest.mark.parametrize("blocked", ["runtime", "runtime/registry.lock", "runtime/measuring.lock"])
def test_a_runtime_folder_that_cannot_be_used_is_named(tmp_path: Path, blocked: str) -> None:
    if blocked == "runtime":
        (tmp_path / blocked).touch()
    else:
        (tmp_path / blocked).mkdir(parents=True)
    with (
        pytest.raises(HostError, match=rf"{tmp_path}/runtime.*KICKBENCH_RUNTIME"),
        ownership.measuring(tmp_path / "runtime"),
    ):
        pytest.fail("a run has started")


@pytest.fixture
def limited() -> Iterator[Callable[[int], str | None]]:
    """Gives a process this RLIMIT_RSS, in bytes; the run that it belongs to then."""
    with subprocess.Popen(["sleep", "1000"]) as child:

        def limit(size: int) -> str | None:
            resource.prlimit(child.pid, resource.RLIMIT_RSS, (size, resource.RLIM_INFINITY))
            return ownership.run_of_process(child.pid)

        try:
            yield limit
        finally:
            child.kill()


@pytest.mark.parametrize(
    ("kib", "run_id"),
    [
        (0x8123456789AB, "8123456789ab"),
        (0xFFFFFFFFFFFF, "ffffffffffff"),
        (1 << 47, "800000000000"),
        ((1 << 47) - 1, None),
        (1 << 48, None),
        (4096, None),
        (0, None),
    ],
)
def test_the_limit_of_a_process_is_the_id_of_its_run(
    limited: Callable[[int], str | None], kib: int, run_id: str | None
) -> None:
    assert limited(kib * 1024) == run_id


def test_a_process_without_a_limit_or_that_is_gone_belongs_to_no_run(
    limited: Callable[[int], str | None],
) -> None:
    assert limited(resource.RLIM_INFINITY) is None
    assert ownership.run_of_process(2**22) is None


@pytest.mark.parametrize(
    "name",
    [
        "", "kickbench", "kickbench-8123456789ab", "kickbench-8123456789ab-1-",
        "kickbench-0123456789ab-1-source", "kickbench-8123456789ab-x-source",
        "kickbench-8123456789ab-1-source2", "x-kickbench-8123456789ab-1-source",
        "kickbench-8123456789ab-1-source\n",
    ],
)  # fmt: skip
def test_other_names_are_of_no_run(name: str) -> None:
    assert ownership.run_of_name(name) is None


@pytest.mark.parametrize("role", ["source", "destination"])
def test_a_name_tells_the_run_that_gave_it(tmp_path: Path, role: str) -> None:
    with ownership.measuring(tmp_path) as run:
        assert ownership.run_of_name(run.name(12, role)) == run.id
        assert run.name(12, role) == f"kickbench-{run.id}-12-{role}"
