"""Kernels from an archive that goes wrong: apt itself, and an archive of the test's own."""

import hashlib
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


class _Mirror(ThreadingHTTPServer):
    """Gives the archive by HTTP, but of a package only the first byte, or one now and then."""

    daemon_threads = True

    def __init__(self, folder: Path, pause_s: float | None) -> None:
        """:param pause_s: seconds between two bytes of a package; None for one byte alone."""
        self.asked = threading.Event()
        self.let_go = threading.Event()
        mirror = self

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Nothing."""

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
def mirror(archive: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[_Mirror]:
    """The same archive on a mirror that stalls in the middle of a package."""
    with _Mirror(archive, request.param) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            source = f"deb [trusted=yes] http://127.0.0.1:{server.server_port}/ ./\n"
            (tmp_path / "apt" / "sources.list").write_text(source)
            with (tmp_path / "apt" / "apt.conf").open("a") as conf:
                conf.write('Acquire::http::Proxy::127.0.0.1 "DIRECT";\n')
            subprocess.run(["apt-get", "update", "-qq"], check=True, capture_output=True)
            yield server
        finally:
            server.shutdown()
            serving.join()


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


def test_a_mirror_that_stalls(
    mirror: _Mirror, cache: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """apt's own limit is on silence alone, and it tries again four times."""
    monkeypatch.setattr(debian, "STALL_S", 1)
    with pytest.raises(
        FetchFailed, match=r"could not be downloaded: less than 128 KiB came in 1 s"
    ):
        _fetch(cache)
    assert not list(cache.folder.iterdir())
    assert mirror.let_go.wait(30), "something of apt is left"


def test_a_download_that_is_ended_by_a_signal(
    mirror: _Mirror, history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert not list((tmp_path / "cache" / "kernels").iterdir())
    assert mirror.let_go.wait(30), "something of apt is left"


def test_a_slow_download_goes_on_for_as_long_as_something_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 0.0
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic_ns=lambda: int(now_s * 1e9)))
    progress = debian.Progress()
    there = 0
    for _ in range(1000):
        now_s += debian.STALL_S - 1
        there += debian.LEAST_BYTES
        assert not progress.stalled(there)
    # A connection that broke is begun anew.
    now_s += debian.STALL_S - 1
    assert not progress.stalled(0)
    now_s += debian.STALL_S - 1
    assert not progress.stalled(1)
    now_s += 2
    assert progress.stalled(2)


def test_a_package_without_a_kernel(archive: Path, cache: Store) -> None:
    with pytest.raises(KernelUnusable, match="has no kernel in it"):
        _fetch(cache)
    assert not list(cache.folder.iterdir())


def test_a_cache_that_cannot_be_made(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FetchFailed, match="cannot be written"):
        _fetch(Store(tmp_path / "file" / "cache"))
