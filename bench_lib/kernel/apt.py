# SPDX-License-Identifier: BSD-3-Clause
"""Run apt with kickbench's own lists and settings. The host's are read and never changed."""

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
"""Seconds in which a download has to receive `LEAST_BYTES`.

apt takes 127 s to try a silent mirror four times, and its own error explains most. But apt waits
for ever for a mirror that sends a byte now and then.
"""

LEAST_BYTES = 128 << 10
"""Bytes that a download has to receive in `STALL_S`. At a lower rate, a kernel of 100 MB would take
more than a day."""

_POLL_S = 0.2

# apt reads this after the host's configuration, so proxies and similar settings are the host's. The
# host's hooks are cleared, because they are for the host's lists. The sources name the target
# Packages, which leaves out others (Contents, AppStream, translations).
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
# After an update apt builds a cache, which takes longer than the update and which only `download`
# needs. The timeouts are short, because lists are small and a user waits for them: apt's defaults
# add up to two minutes.
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
    """apt with its lists and settings in a folder.

    :ivar lists: the folder of the lists.
    """

    def __init__(self, folder: Path, *, of_host: bool = False) -> None:
        """Prepare the folder.

        :param of_host: use the host's sources instead of those in the folder.
        :raise FetchFailed: the folder cannot be written, or apt's configuration cannot name it.
        """
        if not {'"', "\n"}.isdisjoint(str(folder)):
            raise FetchFailed(
                f"apt's configuration cannot name {str(folder)!r}, because the name contains a "
                "double quote or a line break; set KICKBENCH_CACHE to a folder without them"
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
        """Write the file sources.list.

        :param lines: the lines of the file.
        :raise FetchFailed: the folder cannot be written.
        """
        with writing(self._folder):
            (self._folder / "sources.list").write_text("".join(f"{line}\n" for line in lines))

    def update(self, *, release_files_only: bool = False) -> subprocess.Popen[str]:
        """Start to download the lists of packages, or only the Release files of the suites.

        :raise ProgramMissing: apt is not installed.
        """
        name = "release.conf" if release_files_only else "update.conf"
        return self._start(["update"], name, self._folder)

    def download(self, packages: Sequence[str], into: Path) -> subprocess.Popen[str]:
        """Start to download packages.

        :param packages: the packages, each as `NAME=VERSION`.
        :raise ProgramMissing: apt is not installed.
        """
        return self._start(["download", *packages], "apt.conf", into)

    def sources(self) -> list[Source]:
        """The suites that the sources name.

        :raise ToolFailed: apt cannot read its sources.
        """
        return sources("-c", str(self._folder / "apt.conf"))

    def _start(self, arguments: list[str], settings: str, folder: Path) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(
                # apt is quiet, because its output would disturb the progress display.
                ["apt-get", "-qq", "-c", str(self._folder / settings), *arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "LC_ALL": "C"},
                # apt gets its own session, so that it and its children can be killed together.
                start_new_session=True,
            )
        except FileNotFoundError:
            raise missing() from None


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn an error of writing to the cache into one of kickbench's.

    :raise FetchFailed: the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise FetchFailed(
            f"The cache {folder} cannot be written ({error.strerror}); free some space, or set "
            "KICKBENCH_CACHE to another folder."
        ) from None


def missing() -> ProgramMissing:
    """The error for a host without apt."""
    return ProgramMissing(
        "apt-get is not installed, so Debian's kernels cannot be looked up; add a kernel from "
        "packages, an image or a kernel tree with `kickbench kernels add`."
    )


@dataclass(frozen=True)
class Source:
    """A suite that apt's sources name.

    :ivar uri: the mirror's URI.
    :ivar suite: the suite's name in the sources.
    :ivar lists: the file that lists the suite's packages, which may not exist yet.
    :ivar release: the text of the suite's Release file; "" if apt has not downloaded it.
    """

    uri: str
    suite: str
    lists: Path
    release: str

    def field(self, name: str) -> str:
        """A field of the Release file, such as `Codename`; "" if the field is missing."""
        match = re.search(f"^{name}: (.+)$", self.release, re.MULTILINE)
        return match[1] if match else ""


def sources(*options: str) -> list[Source]:
    """The suites that apt's sources name.

    :param options: options of apt-get; without any, the sources are the host's.
    :raise ProgramMissing: apt is not installed.
    :raise ToolFailed: apt cannot read its sources.
    """
    fields = "$(REPO_URI)|$(RELEASE)|$(METAKEY)|$(FILENAME)"
    # Without this option, apt leaves out lists that have not been downloaded.
    command = ["apt-get", *options, "indextargets", "--no-release-info", "--format", fields]
    try:
        text = run_tool([*command, "Created-By: Packages"])
    except ProgramMissing:
        raise missing() from None
    found = []
    for uri, suite, key, file in (line.split("|") for line in text.splitlines()):
        # Release files are beside the lists, and their names start alike.
        stem = file.rpartition(key.replace("/", "_"))[0]
        files = [path for end in ("InRelease", "Release") if (path := Path(stem + end)).is_file()]
        release = files[0].read_text(errors="replace") if files else ""
        found.append(Source(uri, suite, Path(file), release))
    return found


class Progress:
    """A check that a download still receives data."""

    def __init__(self) -> None:
        self._mark = 0
        self._deadline = Deadline.after(STALL_S)

    def stalled(self, received: int) -> bool:
        """Whether the download has received too little for `STALL_S`.

        :param received: bytes that have been received; fewer than before if apt has started again.
        """
        if abs(received - self._mark) >= LEAST_BYTES:
            self._mark = received
            self._deadline = Deadline.after(STALL_S)
        return self._deadline.passed


def finish(
    running: Sequence[subprocess.Popen[str]],
    what: str,
    received: Callable[[], int],
    on_bytes: Callable[[int], None],
) -> list[str]:
    """Wait for the end of downloads, and return why each one failed, or "" if it did not.

    :param what: what is downloaded, as the subject of a sentence.
    :param received: returns the bytes that have been received.
    :raise FetchFailed: the downloads stalled and were killed.
    """
    progress = Progress()
    stderr: dict[int, str] = {}
    with _killed_on_failure(running):
        while len(stderr) < len(running):
            for process in running:
                if process.pid not in stderr:
                    with suppress(subprocess.TimeoutExpired):
                        stderr[process.pid] = process.communicate(timeout=_POLL_S)[1]
            count = received()
            on_bytes(count)
            if len(stderr) < len(running) and progress.stalled(count):
                raise FetchFailed(
                    f"{what} could not be downloaded: less than {LEAST_BYTES >> 10} KiB arrived in "
                    f"{STALL_S:g} s. Check the network, or name another mirror in apt's sources, "
                    "and fetch again; nothing of the download is kept."
                )
    return [reason(stderr[process.pid]) if process.returncode != 0 else "" for process in running]


def reason(stderr: str) -> str:
    """Why apt failed, as part of a sentence: its first error, or else its first warning."""
    lines = stderr.splitlines()
    errors = [line[3:] for line in lines if line.startswith("E: ")] or lines
    # apt prints one error per file, even if all have the same cause.
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return " ".join(errors[0].split()).rstrip(".") + more if errors else "apt gave no reason"


@contextmanager
def _killed_on_failure(running: Sequence[subprocess.Popen[str]]) -> Iterator[None]:
    """Kill the process group of each process if the context is left by an error."""
    try:
        yield
    except BaseException:
        for process in running:
            # A process that has not been reaped keeps its pid.
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=DEATH_LIMIT_S)
        raise


def bytes_in(folder: Path) -> int:
    """The total size of the files in a folder."""
    with suppress(FileNotFoundError):  # apt renames files that are complete
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return 0
