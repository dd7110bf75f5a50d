# SPDX-License-Identifier: BSD-3-Clause
"""Saved states of guests, as files: what is loaded, and what is deleted."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from bench_lib.guest import state

OF = {"kernel": "6.12.1 #1", "vcpus": "2"}
DATA = b"what QEMU sent" * 1000


def _write(path: Path, written_s: int = 1000) -> Path:
    """Write a whole state, as `save` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / f"{path.name}.state").write_bytes(DATA)
    described = {"of": OF, "boot_ns": 7, "size": len(DATA), "crc32": zlib.crc32(DATA)}
    (path.parent / f"{path.name}.json").write_text(json.dumps(described))
    for each in path.parent.glob(f"{path.name}.*"):
        os.utime(each, (written_s, written_s))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A state whose name has dots, as the releases of kernels have."""
    return _write(tmp_path / "6.12.1-linux-2x128-0123")


def test_a_whole_state_is_loaded(path: Path) -> None:
    assert state.load(path, OF) == state.State(OF, 7, len(DATA), zlib.crc32(DATA))
    assert state.data(path).read_bytes() == DATA


def _truncate(file: Path) -> None:
    os.truncate(file, len(DATA) - 1)


def _lengthen(file: Path) -> None:
    file.write_bytes(DATA + b"\0")


def _change_a_byte(file: Path) -> None:
    file.write_bytes(DATA[:5000] + b"\0" + DATA[5001:])


@pytest.mark.parametrize("damage", [_truncate, _lengthen, _change_a_byte, Path.unlink])
def test_a_damaged_state_is_not_loaded(path: Path, damage: Callable[[Path], None]) -> None:
    damage(state.data(path))
    assert state.load(path, OF) is None


@pytest.mark.parametrize(
    "text",
    [None, b"", b"garbage", b"\xff\xfe", b"[]", b"{}", b'{"of": {}, "boot_ns": "soon"}'],
    ids=str,
)
def test_a_state_without_a_proper_description_is_not_loaded(path: Path, text: bytes | None) -> None:
    description = path.parent / f"{path.name}.json"
    if text is None:
        description.unlink()
    else:
        description.write_bytes(text)
    assert state.load(path, OF) is None


@pytest.mark.parametrize("of", [{}, OF | {"vcpus": "4"}, OF | {"cpu": "host"}], ids=str)
def test_the_state_of_another_guest_is_not_loaded(path: Path, of: dict[str, str]) -> None:
    assert state.load(path, of) is None


def test_only_the_newest_states_are_kept(tmp_path: Path) -> None:
    for number in (3, 1, 2):
        _write(tmp_path / f"6.12.{number}-linux", number)
    state.prune(tmp_path, 2)
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "6.12.2-linux.json",
        "6.12.2-linux.state",
        "6.12.3-linux.json",
        "6.12.3-linux.state",
    ]


def test_the_description_of_a_state_that_is_gone_is_deleted(path: Path) -> None:
    state.data(path).unlink()
    state.prune(path.parent, 2)
    assert not [*path.parent.iterdir()]


def test_nothing_is_deleted_where_there_is_no_folder(tmp_path: Path) -> None:
    state.prune(tmp_path / "nothing", 2)
    assert not [*tmp_path.iterdir()]


def test_a_file_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    for data in (b"one", b"two"):
        with state.replacing(path) as file:
            file.write(data)
            assert not path.exists() or path.read_bytes() == b"one"
        assert path.read_bytes() == data
        assert [*path.parent.iterdir()] == [path]


def test_an_error_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    before = len([*Path("/proc/self/fd").iterdir()])
    with pytest.raises(TypeError), state.replacing(path) as file:
        file.writelines([b"two", "no bytes"])  # type: ignore[list-item]
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_bytes() == b"one"
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def _killed_while_it_writes(path: Path) -> None:
    child = os.fork()
    if child == 0:
        with state.replacing(path) as file:
            file.write(b"incomplete")
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len([*path.parent.glob(".new-*")]) == 1


def test_what_a_killed_process_left_is_deleted(path: Path) -> None:
    _killed_while_it_writes(path.parent / "other")
    state.prune(path.parent, 1)
    assert sorted(path.parent.iterdir()) == [
        path.parent / f"{path.name}.json",
        path.parent / f"{path.name}.state",
    ]


def test_what_a_killed_process_left_makes_room_for_the_next_file(path: Path) -> None:
    _killed_while_it_writes(path.parent / "other")
    with state.replacing(path.parent / "other"):
        assert len([*path.parent.glob(".new-*")]) == 1


def test_a_file_that_is_being_written_is_not_deleted(path: Path) -> None:
    first, second = path.parent / "first", path.parent / "second"
    with state.replacing(first) as file, state.replacing(second):
        state.prune(path.parent, 0)
        file.write(b"one")
    assert first.read_bytes() == b"one"
    assert sorted(path.parent.iterdir()) == [first, second]


def test_two_runs_may_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with state.replacing(path) as one:
        with state.replacing(path) as other:
            other.write(b"other")
        assert path.read_bytes() == b"other"
        one.write(b"one")
    assert path.read_bytes() == b"one"
    assert [*tmp_path.iterdir()] == [path]
