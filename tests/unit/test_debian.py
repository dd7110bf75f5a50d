"""Kernels from an archive that goes wrong: apt itself, and an archive of the test's own."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from bench_lib.errors import FetchFailed, KernelUnusable
from bench_lib.kernel import debian
from bench_lib.kernel.store import Store
from tests import make

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt")

RELEASE = "6.1.0-99-amd64"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive that apt believes in, with one package; its folder."""
    folder = tmp_path / "archive"
    package = make.package(folder / "kernel", RELEASE)
    data = package.read_bytes()
    (folder / "Packages").write_text(
        f"Package: linux-image-{RELEASE}\nVersion: 1\nArchitecture: amd64\n"
        f"Maintainer: nobody\nDescription: no kernel\nFilename: ./{package.name}\n"
        f"Size: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
    )
    apt = tmp_path / "apt"
    for name in ("lists/partial", "cache/archives/partial", "parts"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb [trusted=yes] file:{folder} ./\n")
    (apt / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{apt}/sources.list";\nDir::Etc::sourceparts "{apt}/parts";\n'
        f'Dir::State::lists "{apt}/lists";\nDir::State::status "{apt}/status";\n'
        f'Dir::Cache "{apt}/cache";\nAPT::Sandbox::User "";\nAPT::Architecture "amd64";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(apt / "apt.conf"))
    subprocess.run(["apt-get", "update", "-qq"], check=True, capture_output=True)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def _fetch(cache: Store) -> None:
    debian.fetch(cache, RELEASE, lambda done, total: None)


def test_what_apt_offers_is_looked_up(archive: Path) -> None:
    assert debian.releases() == [RELEASE]


def test_a_package_that_vanished_from_the_archive(archive: Path, cache: Store) -> None:
    (archive / "kernel.deb").unlink()
    with pytest.raises(FetchFailed, match=r"could not be downloaded.*apt-get update"):
        _fetch(cache)
    assert not list(cache.folder.iterdir())


def test_a_download_that_is_broken(archive: Path, cache: Store) -> None:
    package = archive / "kernel.deb"
    data = bytearray(package.read_bytes())
    data[-1] ^= 1
    package.write_bytes(data)
    with pytest.raises(FetchFailed, match="Hash Sum mismatch"):
        _fetch(cache)
    assert not list(cache.folder.iterdir())


def test_a_package_without_a_kernel(archive: Path, cache: Store) -> None:
    with pytest.raises(KernelUnusable, match="holds 0 kernel images"):
        _fetch(cache)
    assert not list(cache.folder.iterdir())


def test_a_cache_that_cannot_be_made(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FetchFailed, match="cannot be written"):
        _fetch(Store(tmp_path / "file" / "cache"))
