"""Debian's kernel packages: which there are, and getting one with apt, which checks signatures."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench_lib.deadline import Deadline
from bench_lib.errors import FetchFailed, ProgramMissing, ToolFailed
from bench_lib.kernel.ledger import version_key
from bench_lib.kernel.store import Bootable, Store
from bench_lib.process import DEATH_LIMIT_S, run_tool

# The plain flavour; `cloud` has no 9p, and `rt` is another question. What is signed is the same
# build as what is not.
_PACKAGE = re.compile(r"linux-image-(?P<release>(?P<series>\d+\.\d+)\.\d[\w.+~-]*?-amd64)$")
_OTHER_FLAVOUR = re.compile(r"-(?:cloud|rt)-amd64$")

STALL_S = 150.0
"""How long a download may hardly move. apt needs 127 s of it to try a silent mirror four times, and
knows best why that failed; but a mirror that sends a byte now and then is not silent to it."""

LEAST_BYTES = 128 << 10
"""What has to come in that time. With less, a kernel of 100 MB would take more than a day."""


def releases() -> list[str]:
    """What `uname -r` says on every kernel that apt knows a package of, oldest first.

    The set changes with time, so it is looked up and never remembered.

    :raise ProgramMissing: this is no Debian system.
    """
    try:
        names = run_tool(["apt-cache", "pkgnames", "linux-image-"]).split()
    except ToolFailed as error:
        raise FetchFailed(f"apt does not say which kernels there are: {error}") from None
    found = [
        match["release"]
        for name in names
        if (match := _PACKAGE.match(name)) and not _OTHER_FLAVOUR.search(name)
    ]
    return sorted(found, key=version_key)


@dataclass(frozen=True)
class Offer:
    """A kernel that apt has a package of. :ivar id: nobody here has seen the build yet."""

    release: str
    id: str = ""

    @property
    def stream(self) -> str:
        return f"debian/{'.'.join(self.release.split('.')[:2])}"


def offers() -> list[Offer]:
    """What apt knows a package of; see `releases`."""
    return [Offer(release) for release in releases()]


def fetch(store: Store, release: str, on_bytes: Callable[[int, int], None]) -> Bootable:
    """Download the package of a release and unpack it into the cache.

    :param on_bytes: called now and then with the bytes that are there and those to come.
    :raise FetchFailed: it could not be had; the cache is as it was.
    """
    package = f"linux-image-{release}"
    with store.new_folder() as folder:
        _download(package, folder, on_bytes)
        (file,) = folder.glob("*.deb")
        return store.add_archives([file], f"Debian {file.name.removesuffix('.deb')}")


class Progress:
    """Whether a download moves."""

    def __init__(self) -> None:
        self._mark = 0
        self._deadline = Deadline.after(STALL_S)

    def stalled(self, there: int) -> bool:
        """:param there: bytes that are there by now; fewer than before where apt began anew."""
        if abs(there - self._mark) >= LEAST_BYTES:
            self._mark = there
            self._deadline = Deadline.after(STALL_S)
        return self._deadline.passed


def _download(package: str, folder: Path, on_bytes: Callable[[int, int], None]) -> None:
    # Quietly: what it says would stand in our progress. As the user that we are: apt's own may
    # not write here, and would warn of it.
    command = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package]
    size = _size(package)
    try:
        apt = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # With what it starts, so that all of it can be ended.
            start_new_session=True,
        )
    except FileNotFoundError:
        raise ProgramMissing("apt-get is not installed: this is no Debian system.") from None
    with _ended_on_failure(apt):
        errors = _followed(apt, package, lambda: _bytes_in(folder), lambda n: on_bytes(n, size))
    if apt.returncode != 0 or not list(folder.glob("*.deb")):
        text = " ".join(line.removeprefix("E: ") for line in errors.splitlines())
        raise FetchFailed(
            f"{package} could not be downloaded: {text.rstrip('.') or 'apt gave no reason'}. "
            "If the archive has dropped it, `apt-get update` and `kickbench kernels list` show "
            "what there is."
        )
    on_bytes(size, size)


@contextmanager
def _ended_on_failure(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill a process, which leads a group, and that group, if the context is left by an error."""
    try:
        yield
    except BaseException:
        if process.returncode is None:  # it has not been reaped, so the number is still its own
            os.killpg(process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=DEATH_LIMIT_S)
        raise


def _followed(
    apt: subprocess.Popen[str],
    package: str,
    there: Callable[[], int],
    on_bytes: Callable[[int], None],
) -> str:
    """Wait for the end of a download; what apt says of errors.

    :raise FetchFailed: it stalled.
    """
    progress = Progress()
    while True:
        try:
            _, errors = apt.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            count = there()
            on_bytes(count)
            if progress.stalled(count):
                raise FetchFailed(
                    f"{package} could not be downloaded: less than {LEAST_BYTES >> 10} KiB came in "
                    f"{STALL_S:g} s. Look at the network, or name another mirror in apt's sources, "
                    "and fetch it again; nothing of it is kept."
                ) from None
        else:
            return errors


def _bytes_in(folder: Path) -> int:
    with suppress(FileNotFoundError):  # apt renames what is complete
        return sum(path.stat().st_size for path in folder.rglob("*"))
    return 0


def _size(package: str) -> int:
    """Bytes to download; 0 if apt does not say."""
    try:
        text = run_tool(["apt-cache", "show", "--no-all-versions", package])
    except ToolFailed:
        return 0
    match = re.search(r"^Size: (\d+)$", text, re.MULTILINE)
    return int(match[1]) if match else 0
