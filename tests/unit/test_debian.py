# SPDX-License-Identifier: BSD-3-Clause
"""Kernels from a faulty archive, downloaded by the real apt."""

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest

from bench_lib import deadline
from bench_lib.errors import FetchFailed, KernelUnusable
from bench_lib.kernel import apt, debian
from bench_lib.kernel.store import Store
from bench_lib.kernel.suites import Suites
from tests import archive as made
from tests.archive import Archive, Host

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt")

RELEASE = "6.1.0-99-amd64"


@pytest.fixture
def package(archive: Archive, host: Host, tmp_path: Path) -> Path:
    """The file, in the archive, of its only package, which is empty."""
    file = made.package(tmp_path, f"linux-image-{RELEASE}", "1")
    archive.suite("stable", "trixie", [file])
    return archive.folder / "debian" / "pool" / file.name


@pytest.fixture
def suites(package: Path, tmp_path: Path) -> Suites:
    """The suites that were read from the archive."""
    found = Suites(tmp_path / "cache" / "suites")
    found.refresh(lambda _: None)
    return found


@pytest.fixture
def cache(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache" / "kernels")


class _Mirror(ThreadingHTTPServer):
    """Serves the archive by HTTP, but packages stall after a byte, or come a byte at a time."""

    daemon_threads = True

    def __init__(self, folder: Path, pause_s: float | None) -> None:
        """:param pause_s: seconds between two bytes of a package; None to send only one byte."""
        self.asked = threading.Event()
        self.let_go = threading.Event()
        mirror = self

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Log nothing."""

            def copyfile(self, source: IO[bytes], outputfile: IO[bytes]) -> None:  # type: ignore[override]
                if not self.path.endswith(".deb"):
                    super().copyfile(source, outputfile)
                    return
                mirror.asked.set()
                self.connection.settimeout(pause_s)
                with suppress(ConnectionError):
                    while byte := source.read(1):
                        outputfile.write(byte)
                        with suppress(TimeoutError):
                            self.connection.recv(1)
                            break
                mirror.let_go.set()

        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))


@pytest.fixture(params=[None, 0.1], ids=["silent", "trickling"])
def mirror(
    archive: Archive, package: Path, host: Host, request: pytest.FixtureRequest
) -> Iterator[_Mirror]:
    """A mirror with the same archive, which stalls in the middle of a package."""
    with _Mirror(archive.folder, request.param) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            host.gets_debian_from(f"http://127.0.0.1:{server.server_port}")
            yield server
        finally:
            server.shutdown()
            serving.join()


def _fetch(cache: Store, suites: Suites) -> None:
    (offer,) = debian.offers(suites)
    debian.fetch(cache, suites, offer, lambda done, total: None)


def test_a_package_that_vanished_from_the_archive(
    package: Path, suites: Suites, cache: Store
) -> None:
    package.unlink()
    with pytest.raises(FetchFailed, match=r"of trixie could not be downloaded.*list --refresh"):
        _fetch(cache, suites)
    assert not list(cache.folder.iterdir())


def test_a_download_that_is_broken(package: Path, suites: Suites, cache: Store) -> None:
    data = bytearray(package.read_bytes())
    data[-1] ^= 1
    package.write_bytes(data)
    with pytest.raises(FetchFailed, match="Hash Sum mismatch"):
        _fetch(cache, suites)
    assert not list(cache.folder.iterdir())


def test_a_mirror_that_stalls(
    mirror: _Mirror, suites: Suites, cache: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """apt's own limit applies only if nothing comes at all, and apt tries again four times."""
    monkeypatch.setattr(apt, "STALL_S", 1)
    with pytest.raises(
        FetchFailed, match=r"could not be downloaded: less than 128 KiB arrived in 1 s"
    ):
        _fetch(cache, suites)
    assert not list(cache.folder.iterdir())
    assert mirror.let_go.wait(30), "something of apt is left"


def test_a_download_that_is_ended_by_a_signal(
    mirror: _Mirror,
    suites: Suites,
    cache: Store,
    history: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KICKBENCH_CACHE", str(tmp_path / "cache"))
    kickbench = Path(sys.executable).parent / "kickbench"
    with subprocess.Popen([kickbench, "kernels", "fetch", RELEASE], stderr=subprocess.PIPE) as run:
        assert mirror.asked.wait(60)
        run.terminate()
        _, said = run.communicate()
    assert run.returncode == 128 + signal.SIGTERM
    assert b"Interrupted by SIGTERM" in said
    assert b"Traceback" not in said
    assert not list(cache.folder.iterdir())
    assert mirror.let_go.wait(30), "something of apt is left"


def test_a_slow_download_continues_for_as_long_as_enough_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 0.0
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic_ns=lambda: int(now_s * 1e9)))
    progress = apt.Progress()
    there = 0
    for _ in range(1000):
        now_s += apt.STALL_S - 1
        there += apt.LEAST_BYTES
        assert not progress.stalled(there)
    # After a broken connection, apt starts again from the first byte.
    now_s += apt.STALL_S - 1
    assert not progress.stalled(0)
    now_s += apt.STALL_S - 1
    assert not progress.stalled(1)
    now_s += 2
    assert progress.stalled(2)


def test_a_package_without_a_kernel(suites: Suites, cache: Store) -> None:
    with pytest.raises(KernelUnusable, match="contains no modules and no kernel image"):
        _fetch(cache, suites)
    assert not list(cache.folder.iterdir())


def test_a_cache_that_cannot_be_made(suites: Suites, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FetchFailed, match="cannot be written"):
        _fetch(Store(tmp_path / "file" / "cache"), suites)
    with pytest.raises(FetchFailed, match="cannot be written"):
        Suites(tmp_path / "file" / "cache").refresh(lambda _: None)
