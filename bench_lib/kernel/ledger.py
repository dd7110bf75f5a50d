# SPDX-License-Identifier: BSD-3-Clause
"""The ledger: the list of known kernel builds, kept in kernels.json."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench_lib import lock
from bench_lib.errors import LedgerError
from bench_lib.host.identity import booted
from bench_lib.kernel.version import build_date, stream
from bench_lib.record import Kernel

SCHEMA = 1


@dataclass(frozen=True)
class Build:
    """One kernel build.

    :ivar date: the date of the build, in ISO 8601. If the version string has no date, this is the
        date of the first measurement.
    :ivar stream: the series that the build belongs to, such as `debian/6.12`.
    """

    release: str
    version: str
    date: str
    stream: str

    @property
    def kernel(self) -> Kernel:
        return Kernel(self.release, self.version)

    @property
    def id(self) -> str:
        """40 hexadecimal digits, which are the same on every host."""
        identity = f"{self.release}\n{self.version}".encode()
        return hashlib.sha256(identity).hexdigest()[:40]

    @property
    def timestamp_ms(self) -> int:
        """The date in milliseconds since 1970."""
        return round(datetime.fromisoformat(self.date).timestamp() * 1000)


@dataclass(frozen=True)
class _File:
    schema: int
    kernels: list[Build]


def describe(kernel: Kernel) -> Build:
    """The ledger entry for a new kernel."""
    date = build_date(kernel.version) or datetime.now(UTC)
    return Build(kernel.release, kernel.version, date.isoformat(timespec="seconds"), stream(kernel))


def version_key(release: str) -> list[tuple[int, int, str]]:
    """The sort key of a version: 6.1.0-9 is before 6.1.0-10, and 6.13.0-rc7 before 6.13.0."""
    parts = re.findall(r"\d+|\D+", release.replace("-rc", "~rc"))
    key = [(2, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
    # As in Debian's versions, a tilde sorts before the end of the string.
    return [(-1, 0, part[2]) if part[2].startswith("~") else part for part in [*key, (0, 0, "")]]


def _order(build: Build) -> tuple[list[tuple[int, int, str]], str, str]:
    """The sort key of builds: by version, and rebuilds of a release by date."""
    return version_key(build.release), build.date, build.version


class Ledger:
    """The known builds, in the order of their versions. The file is replaced atomically."""

    def __init__(self, path: Path) -> None:
        """Read the ledger; it is empty if the file does not exist.

        :raise LedgerError: the file cannot be read, is not a ledger, or has a newer schema.
        """
        self.path = path
        try:
            data = msgspec.json.decode(path.read_bytes(), type=_File)
        except FileNotFoundError:
            data = _File(SCHEMA, [])
        except (OSError, msgspec.MsgspecError) as error:
            raise LedgerError(
                f"{path} is not a list of kernels ({error}); restore it from version control."
            ) from None
        if data.schema > SCHEMA:
            raise LedgerError(
                f"{path} has schema {data.schema}, but this kickbench only knows schemas up to "
                f"{SCHEMA}; update kickbench."
            )
        self.builds = sorted(data.kernels, key=_order)

    def including(self, build: Build) -> list[Build]:
        """The known builds and this one, in the order of their versions."""
        if self.find(build.kernel) is not None:
            return self.builds
        return sorted([*self.builds, build], key=_order)

    def including_booted(self) -> list[Build]:
        """The known builds and the booted kernel, in the order of their versions."""
        return self.including(describe(booted()))

    def tag(self, build: Build) -> str:
        """The git tag of a build: `v` and the release.

        For all but the oldest build of a release, digits of the id follow. A tag therefore keeps
        its meaning when a release is built again.
        """
        rebuilds = [known for known in self.builds if known.release == build.release]
        if not rebuilds or rebuilds[0].id == build.id:
            return f"v{build.release}"
        return f"v{build.release}+{build.id[:8]}"

    def find(self, kernel: Kernel) -> Build | None:
        """The entry of a kernel, or None."""
        return next((build for build in self.builds if build.kernel == kernel), None)

    def add(self, build: Build) -> None:
        """Add a build to the file, unless the file has it.

        :raise LedgerError: the file cannot be written; it is unchanged.
        """
        try:
            with _locked(self.path):
                self.builds = Ledger(self.path).builds
                if self.find(build.kernel) is None:
                    self.builds = self.including(build)
                    self._write()
        except OSError as error:
            raise LedgerError(
                f"{self.path} could not be written ({error.strerror}), so it is unchanged; check "
                "the permissions and the free space of its folder."
            ) from None

    def _write(self) -> None:
        text = msgspec.json.format(msgspec.json.encode(_File(SCHEMA, self.builds)), indent=2)
        fd, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        new = Path(name)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(text + b"\n")
            new.chmod(0o644)
            new.replace(self.path)
        except BaseException:
            new.unlink()
            raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock on the ledger. It is on the folder, because the file is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock.held(path.parent):
        yield
