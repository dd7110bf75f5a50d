# SPDX-License-Identifier: BSD-3-Clause
"""What a FUSE server needs of this machine, and what it says."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from bench_lib.errors import FuseUnavailable, StorageFailed
from bench_lib.host import fuse
from bench_lib.storage.fuse import FuseServer


def test_a_host_without_the_device_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fuse, "DEVICE", tmp_path / "fuse")
    with pytest.raises(FuseUnavailable, match="cannot be opened"):
        fuse.check()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file in the place of the device."""
    (tmp_path / "fuse").touch()
    monkeypatch.setattr(fuse, "DEVICE", tmp_path / "fuse")


@pytest.mark.usefixtures("device")
def test_a_host_without_mfusepy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FuseUnavailable, match="mfusepy is not installed"):
        fuse.check()


@pytest.mark.usefixtures("device")
def test_a_host_without_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse, "LIBRARIES", ("libfuse3.so.0",))
    with pytest.raises(FuseUnavailable, match="kickbench set-up"):
        fuse.check()


@pytest.mark.usefixtures("device")
def test_the_newest_library_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse, "LIBRARIES", ("libfuse3.so.0", "libc.so.6"))
    assert fuse.check() == "libc.so.6"


def test_a_word_of_the_server_counts_when_its_line_is_complete() -> None:
    server = object.__new__(FuseServer)
    server.output, theirs = os.pipe2(os.O_NONBLOCK)
    server._printed = b""
    try:
        assert server.said("up") is None
        os.write(theirs, b"a warning of libfuse\nup 3.")
        assert server.said("up") is None
        os.write(theirs, b"14\nhold\n")
        assert server.said("up") == "3.14"
        assert server.said("hold") == ""
        os.write(theirs, b"fuse: the mount failed\n")
    finally:
        os.close(theirs)
    with pytest.raises(StorageFailed, match="failed: fuse: the mount failed"):
        server.said("answer")
    os.close(server.output)
