# SPDX-License-Identifier: BSD-3-Clause
"""The suites of the host's Debian mirror, and the kernels in each.

What the host has configured for apt says where its mirror is. The lists are kept in the cache, one
folder per suite, so that the host's own apt is untouched; what they say of kernels is in one file,
which is all that most commands read.
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
"""What Debian calls its suites whatever their names are at the time, oldest first. Neither
backports nor experimental: nothing is upgraded to those by itself."""

REFRESH = timedelta(hours=6)
"""How old lists may be. The archive changes four times a day."""

RETRY = timedelta(minutes=10)
"""When to try again after the mirror could not be reached at all."""

APT_HELPER = "/usr/lib/apt/apt-helper"
"""Part of apt, for scripts: it knows how its lists are compressed."""

AT_ONCE = 4
"""Suites that are read at the same time, a connection each."""

SCHEMA = 1


@dataclass(frozen=True)
class Suite:
    """A suite as it was last read.

    :ivar name: its code name, such as trixie-security. :ivar names: what users may call it and the
        suite that it belongs to. :ivar read: when, ISO 8601; "" for never.
    :ivar valid_until: of its Release file, ISO 8601; "" where it does not say.
    :ivar problem: why the last try to read it failed; "" if it did not. :ivar expired: whether that
        was because its Release file has expired.
    :ivar defaults: the releases that it installs by default, by flavour.
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
    """What the cache keeps.

    :ivar tried: when the mirror was last asked, ISO 8601. :ivar problem: why that failed as a
        whole. :ivar remarks: sentences about the mirror.
    """

    schema: int
    tried: str
    problem: str = ""
    remarks: tuple[str, ...] = ()
    suites: tuple[Suite, ...] = ()


class Suites:
    """The suites, as the cache has them."""

    def __init__(self, folder: Path, expired: Collection[str] = ()) -> None:
        """:param expired: suites to use although their Release file has expired."""
        self.folder = folder
        self._expired = expired
        self._file = folder / "suites.json"
        self._found = self._load()

    @classmethod
    def of(cls, settings: Settings) -> Suites:
        """Those in the cache that the settings name."""
        return cls(settings.cache / "suites", settings.expired)

    @property
    def all(self) -> Sequence[Suite]:
        """Every suite, oldest first, -updates and -security after the suite that they belong to."""
        return self._found.suites

    @property
    def stale(self) -> bool:
        """Whether it is time to look at the mirror again."""
        if not self._found.tried or any(each.expired and self._allows(each) for each in self.all):
            return True
        age = datetime.now(UTC) - datetime.fromisoformat(self._found.tried)
        return age > (RETRY if self._found.problem else REFRESH)

    @property
    def problem(self) -> str:
        """Why no list could be read, and what is used instead, as a sentence; or ""."""
        if not self._found.problem:
            return ""
        read = max((each.read for each in self.all), default="")
        used = f"those of {_age(read)} are used" if read else "none are here"
        return f"Debian's lists could not be read, and {used}: {self._found.problem.rstrip('.')}."

    def remarks(self) -> list[str]:
        """Sentences on what is not as it should be: suites left out, old or expired."""
        said = [self.problem] if self.problem else []
        said += self._found.remarks
        alike: dict[tuple[str, str], list[str]] = {}
        for each in self.all:
            used = f"the list of {_age(each.read)} is used" if each.read else "left out"
            if each.problem:
                alike.setdefault((each.problem, used), []).append(each.name)
        said += [f"{', '.join(each)}: {used}: {why}." for (why, used), each in alike.items()]
        now = datetime.now(UTC).isoformat()
        if expired := [each for each in self.all if each.valid_until and each.valid_until < now]:
            names = ", ".join(each.name for each in expired)
            oldest = min(each.valid_until for each in expired)
            said.append(
                f"The Release files of {names} have expired, the oldest {_age(oldest)}; they are "
                "used because apt's configuration or KICKBENCH_EXPIRED allows it."
            )
        return said

    def age(self) -> str:
        """How long ago the suites were read, for people; "" if they never were."""
        read = max((each.read for each in self.all), default="")
        return _age(read) if read else ""

    def meanings(self) -> Mapping[str, str]:
        """The release that each name of a suite means: the newest of those that it installs.

        Names are `debian/trixie`, `debian/stable`, and with a flavour `debian/trixie-rt`.
        """
        found: dict[str, str] = {}
        for suite in self.all:
            for flavour, release in suite.defaults.items():
                for name in suite.names:
                    key = f"debian/{name}-{flavour}" if flavour else f"debian/{name}"
                    found[key] = max(found.get(key, release), release, key=version_key)
        return found

    def refresh(self, on_bytes: Callable[[int], None]) -> None:
        """Read the lists of every suite, unless another process does so meanwhile.

        What goes wrong with one suite is its `problem`, and its last list stays in use.

        :param on_bytes: called now and then with the bytes that have come.
        :raise FetchFailed: no suite can be read; what the cache has is as it was.
        :raise ProgramMissing: this host has no apt.
        """
        tried = self._found.tried
        with self._locked():
            self._found = self._load()
            if self._found.tried != tried:
                return
            now = datetime.now(UTC).isoformat(timespec="seconds")
            before = apt.bytes_in(self.folder)
            try:
                found = self._look(lambda there: on_bytes(max(0, there - before)))
            except (FetchFailed, ToolFailed) as error:
                self._keep(replace(self._found, tried=now, problem=str(error)))
                raise FetchFailed(self.problem) from None
            self._keep(replace(found, tried=now))

    def lists(self, suite: str) -> apt.Apt:
        """What downloads packages of a suite, by its lists as they were read."""
        return apt.Apt(self.folder / suite)

    def _look(self, on_bytes: Callable[[int], None]) -> _Found:
        source = mirror.of_host(self.folder, on_bytes)
        remarks: list[str] = []
        if not source.security:
            remarks.append(
                "This host's apt names no mirror of debian-security, so what is only there is left "
                "out."
            )
        named = self._code_names(source, on_bytes)
        wanted: list[tuple[Suite, str]] = []
        read: list[Suite] = []
        for alias in ALIASES:
            if alias not in named:
                remarks.append(f"{alias} cannot be read from the mirror {source.archive}.")
                # What is known of it stays in use.
                read += [
                    replace(each, problem=f"{alias} could not be read")
                    for each in self.all
                    if alias in each.names
                ]
                continue
            name, names = named[alias], (named[alias], alias)
            wanted.append((Suite(name, names), source.archive))
            # What is uploaded to unstable needs no other way.
            if alias != "unstable":
                wanted.append((Suite(f"{name}-updates", names), source.archive))
                if source.security:
                    wanted.append((Suite(f"{name}-security", names), source.security))
        for begin in range(0, len(wanted), AT_ONCE):
            read += self._read(wanted[begin : begin + AT_ONCE], on_bytes)
        self._forget_all_but({each.name for each in read})
        return _Found(SCHEMA, "", "", tuple(remarks), tuple(read))

    def _read(
        self, wanted: Sequence[tuple[Suite, str]], on_bytes: Callable[[int], None]
    ) -> list[Suite]:
        """Read some suites at the same time. :param wanted: each with its mirror."""
        every = []
        for suite, uri in wanted:
            lists = apt.Apt(self.folder / suite.name)
            lists.set_sources([mirror.line(uri, suite.name, expired=self._allows(suite))])
            every.append(lists)
        failures = apt.finish(
            [each.update() for each in every],
            "The lists of " + ", ".join(suite.name for suite, _ in wanted),
            lambda: apt.bytes_in(self.folder),
            on_bytes,
        )
        before = {each.name: each for each in self.all}
        return [
            _failed(before.get(suite.name, suite), failure) if failure else _parsed(suite, lists)
            for (suite, _), lists, failure in zip(wanted, every, failures, strict=True)
        ]

    def _allows(self, suite: Suite) -> bool:
        """Whether a suite is to be used although its Release file has expired."""
        return not {suite.name, *suite.names}.isdisjoint(self._expired)

    def _code_names(self, source: Mirror, on_bytes: Callable[[int], None]) -> dict[str, str]:
        """The names behind `ALIASES`, as the mirror's Release files give them.

        :raise FetchFailed: there is none of them.
        """
        # What is there from the last time says nothing of the mirror.
        shutil.rmtree(self.folder / "aliases", ignore_errors=True)
        asked = apt.Apt(self.folder / "aliases")
        # Nothing but a name is taken from it, so it does not matter how old it is.
        asked.set_sources([mirror.line(source.archive, alias, expired=True) for alias in ALIASES])
        (failure,) = apt.finish(
            [asked.update(release_files_only=True)],
            "The Release files of Debian's suites",
            lambda: apt.bytes_in(self.folder),
            on_bytes,
        )
        found = {each.suite: name for each in asked.sources() if (name := each.field("Codename"))}
        if not found:
            why = failure or f"{source.archive} has none of Debian's suites"
            raise FetchFailed(f"{why}; look at the network and at apt's sources")
        return found

    def _forget_all_but(self, names: Collection[str]) -> None:
        """Delete the lists of suites that are no longer read."""
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in {*names, "aliases", "host"}:
                shutil.rmtree(path, ignore_errors=True)

    def _load(self) -> _Found:
        """What is in the file; nothing if it is missing, damaged, or another version's."""
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
        """Held by the process that reads lists."""
        with apt.writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with lock.held(self.folder):
            yield


def _parsed(suite: Suite, lists: apt.Apt) -> Suite:
    """A suite whose lists have been read."""
    found: dict[str, PackagedKernel] = {}
    defaults: dict[str, str] = {}
    # The second is for packages of any architecture, of which no kernel is one.
    source = lists.sources()[0]
    # apt keeps no list of a suite that has no packages.
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
    """A suite that could not be read. :param failure: apt's reason."""
    expired = "is expired" in failure
    if expired:
        failure = (
            "its Release file has expired, which apt refuses; "
            f"KICKBENCH_EXPIRED={suite.names[0]} uses it all the same"
        )
    elif "NO_PUBKEY" in failure:
        failure += "; a newer package debian-archive-keyring may have the key"
    return replace(suite, problem=failure, expired=expired)


def _age(moment: str) -> str:
    """How long ago a moment was, ISO 8601, for people."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "a moment ago"
