# SPDX-License-Identifier: BSD-3-Clause
"""An archive of Debian's kernels for unit tests, and a host that gets Debian there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench_lib.kernel import mirror
from tests.archive import Archive, Host, Signer, signer


@pytest.fixture(scope="session")
def key() -> Iterator[Signer]:
    with signer() as made:
        yield made


@pytest.fixture
def archive(tmp_path: Path, key: Signer, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An empty archive, whose key kickbench trusts."""
    monkeypatch.setattr(mirror, "KEYS", key.keyring)
    return Archive(tmp_path / "archive", key)


@pytest.fixture
def host(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """The host whose configuration apt reads."""
    made = Host(tmp_path / "host", archive.key.keyring)
    made.gets_debian_from(f"file:{archive.folder}")
    monkeypatch.setenv("APT_CONFIG", made.environment["APT_CONFIG"])
    return made
