# SPDX-License-Identifier: BSD-3-Clause
"""Which runtime folder a run is of."""

from pathlib import Path

from bench_lib import ownership


def _home(runtime: Path) -> str:
    with ownership.measuring(runtime) as run:
        return run.id[: ownership.HOME_DIGITS]


def test_another_folder_of_the_same_path_is_another_home(tmp_path: Path) -> None:
    """As in a container or a chroot: what is dead in one may live in the other."""
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


def test_every_id_is_a_limit_that_nobody_sets(tmp_path: Path) -> None:
    with ownership.measuring(tmp_path / "runtime") as run:
        assert ownership.RUN_ID.fullmatch(run.id)
        assert int(run.id, 16) >= 1 << 47
