# SPDX-License-Identifier: BSD-3-Clause
"""The suites of the host's Debian mirror, and the kernels in each.

The host's configuration of apt names the mirror. The lists are kept in the cache, in one folder per
suite, so that the host's own apt is untouched. The kernels in these lists are extracted into one
file, which is all that most commands read.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import msgspec

from bench_lib import architecture, lock
from bench_lib.errors import FetchFailed, ToolFailed
from bench_lib.kernel import apt, mirror, packages
from bench_lib.kernel.ledger import version_key
from bench_lib.kernel.mirror import Mirror
from bench_lib.kernel.packages import PackagedKernel
from bench_lib.process import run_tool
from bench_lib.settings import Settings

ALIASES = ("oldoldstable", "oldstable", "stable", "testing", "unstable")
"""The names of Debian's suites that do not change with releases, oldest first.

Backports and experimental are left out, because systems are not upgraded to them by default.
"""

REFRESH = timedelta(hours=6)
"""The age at which lists are read again. The archive changes four times a day."""

RETRY = timedelta(minutes=10)
"""The time until the next attempt after no suite could be read."""

APT_HELPER = "/usr/lib/apt/apt-helper"
"""A program of apt for scripts; it decompresses apt's lists."""

AT_ONCE = 4
"""The number of suites that are read at the same time, each over its own connection."""

SCHEMA = 1


@dataclass(frozen=True)
class Suite:
    """A suite as it was last read.

    :ivar name: the suite's code name, such as trixie-security.
    :ivar names: the names that users may give this suite or the suite that it belongs to.
    :ivar read: the time of the last successful reading, in ISO 8601; "" if there was none.
    :ivar valid_until: the expiry of the suite's Release file, in ISO 8601; "" if it has none.
    :ivar problem: why the last attempt to read the suite failed; "" if it succeeded.
    :ivar expired: whether it failed because the suite's Release file has expired.
    :ivar defaults: the releases that the suite installs by default, by flavour.
    """

    name: str
    names: tuple[str, ...]
    read: str = ""
    valid_until: str = ""
    problem: str = ""
    expired: bool = False
    kernels: tuple[PackagedKernel, ...] = ()
    defaults: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Found:
    """The contents of the file in the cache.

    :ivar tried: the time of the last attempt to read the mirror, in ISO 8601.
    :ivar problem: why that attempt read no suite at all; "" if it read one.
    :ivar remarks: sentences about the mirror.
    """

    schema: int
    tried: str
    problem: str = ""
    remarks: tuple[str, ...] = ()
    suites: tuple[Suite, ...] = ()


class Suites:
    """The suites in the cache."""

    def __init__(self, folder: Path, expired: Collection[str] = ()) -> None:
        """:param expired: suites that are used although their Release file has expired."""
        self.folder = folder
        self._expired = expired
        self._file = folder / "suites.json"
        self._found = self._load()

    @classmethod
    def of(cls, settings: Settings) -> Suites:
        """The suites in the cache that the settings name."""
        return cls(settings.cache / "suites", settings.expired)

    @property
    def all(self) -> Sequence[Suite]:
        """Every suite, oldest first; -updates and -security follow the suite they belong to."""
        return self._found.suites

    @property
    def stale(self) -> bool:
        """Whether it is time to read the mirror again."""
        if not self._found.tried or any(each.expired and self._allows(each) for each in self.all):
            return True
        age = datetime.now(UTC) - datetime.fromisoformat(self._found.tried)
        return age > (RETRY if self._found.problem else REFRESH)

    @property
    def problem(self) -> str:
        """A sentence on why no list could be read, and which lists are used instead; or ""."""
        if not self._found.problem:
            return ""
        read = max((each.read for each in self.all), default="")
        used = f"those of {_age(read)} are used" if read else "the cache has none"
        return f"Debian's lists could not be read, and {used}: {self._found.problem.rstrip('.')}."

    def remarks(self) -> list[str]:
        """Sentences about problems: suites that are left out, outdated or expired."""
        remarks = [self.problem] if self.problem else []
        remarks += self._found.remarks
        alike: dict[tuple[str, str], list[str]] = {}
        for each in self.all:
            used = f"the list of {_age(each.read)} is used" if each.read else "left out"
            if each.problem:
                alike.setdefault((each.problem, used), []).append(each.name)
        remarks += [f"{', '.join(each)}: {used}: {why}." for (why, used), each in alike.items()]
        now = datetime.now(UTC).isoformat()
        if expired := [each for each in self.all if each.valid_until and each.valid_until < now]:
            names = ", ".join(each.name for each in expired)
            oldest = min(each.valid_until for each in expired)
            remarks.append(
                f"The Release files of {names} have expired, the oldest {_age(oldest)}; they are "
                "used because apt's configuration or KICKBENCH_EXPIRED allows it."
            )
        return remarks

    def age(self) -> str:
        """How long ago the suites were last read, in words; "" if they never were."""
        read = max((each.read for each in self.all), default="")
        return _age(read) if read else ""

    def meanings(self) -> Mapping[str, str]:
        """The release that each name of a suite means: the newest that the suite installs.

        The names are `debian/trixie`, `debian/stable`, and with a flavour `debian/trixie-rt`.
        """
        found: dict[str, str] = {}
        for suite in self.all:
            for flavour, release in suite.defaults.items():
                for name in suite.names:
                    key = f"debian/{name}-{flavour}" if flavour else f"debian/{name}"
                    found[key] = max(found.get(key, release), release, key=version_key)
        return found

    def refresh(self, on_bytes: Callable[[int], None]) -> None:
        """Read the lists of every suite, unless another process has done so meanwhile.

        An error of one suite is recorded as its `problem`, and its last list stays in use.

        :param on_bytes: called repeatedly with the bytes that were received.
        :raise FetchFailed: no suite can be read; the lists in the cache are unchanged.
        :raise ProgramMissing: apt is not installed.
        """
        tried = self._found.tried
        with self._locked():
            self._found = self._load()
            if self._found.tried != tried:
                return
            now = datetime.now(UTC).isoformat(timespec="seconds")
            before = apt.bytes_in(self.folder)
            try:
                found = self._read_all(lambda size: on_bytes(max(0, size - before)))
            except (FetchFailed, ToolFailed) as error:
                self._keep(replace(self._found, tried=now, problem=str(error)))
                raise FetchFailed(self.problem) from None
            self._keep(replace(found, tried=now))

    def lists(self, suite: str) -> apt.Apt:
        """An apt that downloads packages of a suite, with the lists in the cache."""
        return apt.Apt(self.folder / suite)

    def _read_all(self, on_bytes: Callable[[int], None]) -> _Found:
        source = mirror.of_host(self.folder, on_bytes)
        remarks: list[str] = []
        if not source.security:
            remarks.append(
                "This host's apt names no mirror of debian-security, so kernels that are only "
                "there are left out."
            )
        named = self._code_names(source, on_bytes)
        wanted: list[tuple[Suite, str]] = []
        read: list[Suite] = []
        for alias in ALIASES:
            if alias not in named:
                remarks.append(f"{alias} cannot be read from the mirror {source.archive}.")
                # The lists from the last reading stay in use.
                read += [
                    replace(each, problem=f"{alias} could not be read")
                    for each in self.all
                    if alias in each.names
                ]
                continue
            name, names = named[alias], (named[alias], alias)
            wanted.append((Suite(name, names), source.archive))
            # unstable has neither -updates nor -security.
            if alias != "unstable":
                wanted.append((Suite(f"{name}-updates", names), source.archive))
                if source.security:
                    wanted.append((Suite(f"{name}-security", names), source.security))
        for start in range(0, len(wanted), AT_ONCE):
            read += self._read(wanted[start : start + AT_ONCE], on_bytes)
        self._forget_all_but({each.name for each in read})
        return _Found(SCHEMA, "", "", tuple(remarks), tuple(read))

    def _read(
        self, wanted: Sequence[tuple[Suite, str]], on_bytes: Callable[[int], None]
    ) -> list[Suite]:
        """Read some suites, each with the URI of its mirror, at the same time."""
        apts = []
        for suite, uri in wanted:
            lists = apt.Apt(self.folder / suite.name)
            lists.set_sources([mirror.line(uri, suite.name, expired=self._allows(suite))])
            apts.append(lists)
        failures = apt.finish(
            [each.update() for each in apts],
            "The lists of " + ", ".join(suite.name for suite, _ in wanted),
            lambda: apt.bytes_in(self.folder),
            on_bytes,
        )
        before = {each.name: each for each in self.all}
        return [
            _failed(before.get(suite.name, suite), failure) if failure else _parsed(suite, lists)
            for (suite, _), lists, failure in zip(wanted, apts, failures, strict=True)
        ]

    def _allows(self, suite: Suite) -> bool:
        """Whether the settings allow a suite although its Release file has expired."""
        return not {suite.name, *suite.names}.isdisjoint(self._expired)

    def _code_names(self, source: Mirror, on_bytes: Callable[[int], None]) -> dict[str, str]:
        """The code names of `ALIASES`, from the mirror's Release files.

        :raise FetchFailed: no Release file could be read.
        """
        # The folder is deleted, so that files of the last reading are not taken for the mirror's.
        shutil.rmtree(self.folder / "aliases", ignore_errors=True)
        aliases = apt.Apt(self.folder / "aliases")
        # Expired Release files are accepted, because only a name is read from them.
        aliases.set_sources([mirror.line(source.archive, alias, expired=True) for alias in ALIASES])
        (failure,) = apt.finish(
            [aliases.update(release_files_only=True)],
            "The Release files of Debian's suites",
            lambda: apt.bytes_in(self.folder),
            on_bytes,
        )
        found = {each.suite: name for each in aliases.sources() if (name := each.field("Codename"))}
        if not found:
            why = failure or f"{source.archive} has none of Debian's suites"
            raise FetchFailed(f"{why}; check the network and apt's sources")
        return found

    def _forget_all_but(self, names: Collection[str]) -> None:
        """Delete the lists of suites that are no longer read."""
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in {*names, "aliases", "host"}:
                shutil.rmtree(path, ignore_errors=True)

    def _load(self) -> _Found:
        """The contents of the file; empty if it is missing, damaged, or has another schema."""
        try:
            found = msgspec.json.decode(self._file.read_bytes(), type=_Found)
        except (OSError, msgspec.MsgspecError):
            return _Found(SCHEMA, "")
        return found if found.schema == SCHEMA else _Found(SCHEMA, "")

    def _keep(self, found: _Found) -> None:
        self._found = found
        new = self._file.with_suffix(".new")
        with apt.writing(self.folder):
            new.write_bytes(msgspec.json.encode(found))
            new.replace(self._file)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the process that reads lists."""
        with apt.writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with lock.held(self.folder):
            yield


def _parsed(suite: Suite, lists: apt.Apt) -> Suite:
    """A suite with the kernels of its downloaded lists."""
    found: dict[str, PackagedKernel] = {}
    defaults: dict[str, str] = {}
    # The second source lists packages for all architectures, which has no kernels.
    source = lists.sources()[0]
    # The list may be missing, because apt keeps no list of a suite without packages.
    for file in source.lists.parent.glob(f"{source.lists.name}*"):
        text = run_tool([APT_HELPER, "cat-file", str(file)])
        found, defaults = packages.kernels(text, architecture.for_trials().debian)
    valid_until = source.field("Valid-Until")
    return replace(
        suite,
        read=datetime.now(UTC).isoformat(timespec="seconds"),
        valid_until=valid_until and parsedate_to_datetime(valid_until).isoformat(),
        kernels=tuple(found.values()),
        defaults=defaults,
    )


def _failed(suite: Suite, failure: str) -> Suite:
    """A suite that could not be read.

    :param failure: apt's reason.
    """
    expired = "is expired" in failure
    if expired:
        failure = (
            "its Release file has expired, so apt refuses it; set "
            f"KICKBENCH_EXPIRED={suite.names[0]} to use it anyway"
        )
    elif "NO_PUBKEY" in failure:
        failure += "; a newer package debian-archive-keyring may have the key"
    return replace(suite, problem=failure, expired=expired)


def _age(time: str) -> str:
    """How long ago a time was, in words.

    :param time: in ISO 8601.
    """
    seconds = (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "a moment ago"
