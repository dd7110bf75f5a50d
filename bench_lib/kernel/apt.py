# SPDX-License-Identifier: BSD-3-Clause
"""apt with lists and settings of its own. The host's configuration is read and never changed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench_lib.deadline import Deadline
from bench_lib.errors import FetchFailed, ProgramMissing
from bench_lib.process import DEATH_LIMIT_S, run_tool

STALL_S = 150.0
"""How long a download may hardly move. apt needs 127 s of it to try a silent mirror four times, and
knows best why that failed; but a mirror that sends a byte now and then is not silent to it."""

LEAST_BYTES = 128 << 10
"""What has to come in that time. With less, a kernel of 100 MB would take more than a day."""

_POLL_S = 0.2

# apt reads this after the host's configuration, so proxies and the like are the host's. Its hooks
# are for its own lists. Other targets than Packages (Contents, AppStream, translations) are left
# out by the sources.
_SETTINGS = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::AllowReleaseInfoChange "true";
Acquire::GzipIndexes "true";
Acquire::Languages "none";
Dir::Cache "{folder}";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "{folder}/lists";
Dir::State::status "/dev/null";
"""
# apt builds a cache after an update, which takes longer than the update, and which only `download`
# needs. Lists are small, and asked for by people who wait: apt's own patience is two minutes.
_LISTS = """\
pkgCacheFile::Generate "false";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
"""
_SOURCES = """\
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
"""
_RELEASE_FILES_ONLY = "#clear Acquire::IndexTargets;\n"


class Apt:
    """apt with the lists in a folder.

    :ivar lists: where they are.
    """

    def __init__(self, folder: Path, *, of_host: bool = False) -> None:
        """Prepare the folder.

        :param of_host: whether the sources are the host's, instead of those in the folder.
        :raise FetchFailed: the folder cannot be written, or apt cannot be told of it.
        """
        if not {'"', "\n"}.isdisjoint(str(folder)):
            raise FetchFailed(
                f"apt's configuration cannot name {str(folder)!r}, because a double quote or a "
                "line end is in it; set KICKBENCH_CACHE to a folder without"
            )
        self._folder = folder
        self.lists = folder / "lists"
        common = (_SETTINGS if of_host else _SETTINGS + _SOURCES).format(folder=folder)
        with writing(folder):
            for name in ("lists/partial", "archives/partial"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / "apt.conf").write_text(common)
            (folder / "update.conf").write_text(common + _LISTS)
            (folder / "release.conf").write_text(common + _LISTS + _RELEASE_FILES_ONLY)

    def set_sources(self, lines: Sequence[str]) -> None:
        """Write the sources.

        :param lines: as in sources.list.
        :raise FetchFailed: the folder cannot be written.
        """
        with writing(self._folder):
            (self._folder / "sources.list").write_text("".join(f"{line}\n" for line in lines))

    def update(self, *, release_files_only: bool = False) -> subprocess.Popen[str]:
        """Start reading the lists of packages, or only the Release files, which name the suites."""
        name = "release.conf" if release_files_only else "update.conf"
        return self._start(["update"], name, self._folder)

    def download(self, packages: Sequence[str], into: Path) -> subprocess.Popen[str]:
        """Start downloading packages. :param packages: each `NAME=VERSION`."""
        return self._start(["download", *packages], "apt.conf", into)

    def sources(self) -> list[Source]:
        """The suites that the sources name.

        :raise ToolFailed: apt cannot read its sources.
        """
        return sources("-c", str(self._folder / "apt.conf"))

    def _start(self, arguments: list[str], settings: str, folder: Path) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(
                # Quietly, because what apt prints would stand in our progress.
                ["apt-get", "-qq", "-c", str(self._folder / settings), *arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "LC_ALL": "C"},
                # With what it starts, so that all of it can be ended.
                start_new_session=True,
            )
        except FileNotFoundError:
            raise missing() from None


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Have a failure to write in the cache be one of kickbench's.

    :raise FetchFailed: the sentence names the folder.
    """
    try:
        yield
    except OSError as error:
        raise FetchFailed(
            f"The cache {folder} cannot be written ({error.strerror}); free some space, or set "
            "KICKBENCH_CACHE to a folder elsewhere."
        ) from None


def missing() -> ProgramMissing:
    """The error for a host without apt."""
    return ProgramMissing(
        "apt-get is not installed, so Debian's kernels cannot be looked up; "
        "`kickbench kernels add` takes packages, images and kernel trees."
    )


@dataclass(frozen=True)
class Source:
    """A suite that sources name.

    :ivar uri: of the mirror. :ivar suite: as the sources call it. :ivar lists: of its packages,
        which need not be there. :ivar release: its Release file; "" where it has not been read.
    """

    uri: str
    suite: str
    lists: Path
    release: str

    def field(self, name: str) -> str:
        """A field of the Release file, such as `Codename`; "" where there is none."""
        match = re.search(f"^{name}: (.+)$", self.release, re.MULTILINE)
        return match[1] if match else ""


def sources(*options: str) -> list[Source]:
    """The suites that apt's sources name. :param options: of apt; none for the host's own sources.

    :raise ProgramMissing: apt is not installed.
    :raise ToolFailed: apt cannot read its sources.
    """
    fields = "$(REPO_URI)|$(RELEASE)|$(METAKEY)|$(FILENAME)"
    # With the information of Release files, apt leaves out lists that are not there.
    command = ["apt-get", *options, "indextargets", "--no-release-info", "--format", fields]
    try:
        text = run_tool([*command, "Created-By: Packages"])
    except ProgramMissing:
        raise missing() from None
    found = []
    for uri, suite, key, file in (line.split("|") for line in text.splitlines()):
        # Release files lie beside the lists and are named by the same rule.
        place = file.rpartition(key.replace("/", "_"))[0]
        there = [path for end in ("InRelease", "Release") if (path := Path(place + end)).is_file()]
        release = there[0].read_text(errors="replace") if there else ""
        found.append(Source(uri, suite, Path(file), release))
    return found


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


def finish(
    running: Sequence[subprocess.Popen[str]],
    what: str,
    there: Callable[[], int],
    on_bytes: Callable[[int], None],
) -> list[str]:
    """Wait for the end of downloads; why each of them failed, or "".

    :param what: is downloaded, for a sentence. :param there: bytes that are there by now.
    :raise FetchFailed: they stalled, and were ended.
    """
    progress = Progress()
    said: dict[int, str] = {}
    with _ended_on_failure(running):
        while len(said) < len(running):
            for process in running:
                if process.pid not in said:
                    with suppress(subprocess.TimeoutExpired):
                        said[process.pid] = process.communicate(timeout=_POLL_S)[1]
            count = there()
            on_bytes(count)
            if len(said) < len(running) and progress.stalled(count):
                raise FetchFailed(
                    f"{what} could not be downloaded: less than {LEAST_BYTES >> 10} KiB came in "
                    f"{STALL_S:g} s. Look at the network, or name another mirror in apt's sources, "
                    "and fetch it again; nothing of it is kept."
                )
    return [reason(said[process.pid]) if process.returncode != 0 else "" for process in running]


def reason(said: str) -> str:
    """Why apt failed, as part of a sentence: its first error, or else its first warning."""
    lines = said.splitlines()
    errors = [line[3:] for line in lines if line.startswith("E: ")] or lines
    # One cause has an error for each file.
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return " ".join(errors[0].split()).rstrip(".") + more if errors else "apt gave no reason"


@contextmanager
def _ended_on_failure(running: Sequence[subprocess.Popen[str]]) -> Iterator[None]:
    """Kill processes, each of which leads a group, if the context is left by an error."""
    try:
        yield
    except BaseException:
        for process in running:
            if process.returncode is None:  # it has not been reaped, so the number is its own
                os.killpg(process.pid, signal.SIGKILL)
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=DEATH_LIMIT_S)
        raise


def bytes_in(folder: Path) -> int:
    """What the files in a folder take together."""
    with suppress(FileNotFoundError):  # apt renames what is complete
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return 0
