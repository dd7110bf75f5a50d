# SPDX-License-Identifier: BSD-3-Clause
"""What the coordinator remembers over a restart: campaigns, and the hosts it has seen.

Which boots of a campaign are made is not here. The record file has that, and nothing else does.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from bench_lib import lock
from bench_lib.errors import FleetError, FleetRefused
from bench_lib.fleet.facts import HostFacts
from bench_lib.fleet.plan import Plan
from bench_lib.fleet.status import CampaignState

T = TypeVar("T")

_NEW = ".new-"
"""The prefix of files that are not complete yet."""


@dataclass(frozen=True)
class KeptCampaign:
    """A campaign as the journal has it."""

    plan: Plan
    state: CampaignState


@dataclass(frozen=True)
class KeptHost:
    """A host as the journal has it."""

    facts: HostFacts
    drained: bool
    aside: str | None


class Journal:
    """The files of one coordinator, each replaced whole."""

    def __init__(self, folder: Path) -> None:
        """:param folder: the folder of the files."""
        self.folder = folder
        self._hosts = folder / "hosts.json"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the only coordinator that uses this folder, and so the record file beside it.

        :raise FleetRefused: another coordinator uses it.
        :raise FleetError: the folder cannot be used.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            fd = lock.take(self.folder, lock.FOLDER, wait=False)
        except OSError as error:
            raise FleetError(
                f"The coordinator's folder {self.folder} cannot be used ({error.strerror}); check "
                "its rights, or set KICKBENCH_RECORDS to a file in another folder."
            ) from None
        if fd is None:
            raise FleetRefused(
                f"Another coordinator already keeps its campaigns in {self.folder}; end it, or set "
                "KICKBENCH_RECORDS to a file in another folder."
            )
        try:
            for left in self.folder.glob(f"{_NEW}*"):
                left.unlink(missing_ok=True)
            yield
        finally:
            os.close(fd)

    def campaigns(self) -> list[KeptCampaign]:
        """Return all campaigns, oldest first.

        :raise FleetError: a file cannot be read.
        """
        paths = sorted(
            self.folder.glob("campaign-*.json"), key=lambda path: path.stat().st_mtime_ns
        )
        return [_read(path, KeptCampaign) for path in paths]

    def keep_campaign(self, campaign: KeptCampaign) -> None:
        """Remember a campaign.

        :raise FleetError: the file cannot be written.
        """
        _write(self._path(campaign.plan.id), campaign)

    def forget_campaign(self, id: str) -> None:  # noqa: A002  # it is the word of the interface
        """Forget a campaign, as far as its file can be removed."""
        with suppress(OSError):
            self._path(id).unlink()

    def _path(self, id: str) -> Path:  # noqa: A002
        return self.folder / f"campaign-{id}.json"

    def hosts(self) -> dict[str, KeptHost]:
        """Return the hosts by name.

        :raise FleetError: the file cannot be read.
        """
        return _read(self._hosts, dict[str, KeptHost]) if self._hosts.exists() else {}

    def keep_hosts(self, hosts: Mapping[str, KeptHost]) -> None:
        """Remember all hosts.

        :raise FleetError: the file cannot be written.
        """
        _write(self._hosts, hosts)


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise FleetError(
            f"{path} cannot be read ({error}); remove it, and submit its campaign again. The "
            "records are not affected."
        ) from None


def _write(path: Path, value: object) -> None:
    try:
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=_NEW)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(msgspec.json.encode(value))
                file.flush()
                os.fdatasync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink()
            raise
    except OSError as error:
        raise FleetError(
            f"{path} cannot be written ({error.strerror}); make room or check its rights."
        ) from None
