# SPDX-License-Identifier: BSD-3-Clause
"""What a FUSE server needs of this machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from bench_lib.errors import FuseUnavailable
from bench_lib.host import fuse


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
