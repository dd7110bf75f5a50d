# SPDX-License-Identifier: BSD-3-Clause
"""The mirror that a host gets Debian from, as its own apt is configured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench_lib import architecture
from bench_lib.errors import FetchFailed
from bench_lib.kernel import apt

KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""Debian's own keys, of the package debian-archive-keyring. No other key is believed."""

DEBIAN = "Debian"
"""What Debian's Release files call their origin."""


@dataclass(frozen=True)
class Mirror:
    """Where the host gets Debian from. :ivar security: "" where it names none."""

    archive: str
    security: str


def of_host(folder: Path, on_bytes: Callable[[int], None]) -> Mirror:
    """Where the host's own apt gets Debian from.

    :param folder: of the cache, for lists of our own.
    :raise FetchFailed: it names no mirror of Debian, or Debian's keys are not here.
    """
    if not KEYS.exists():
        raise FetchFailed(
            f"{KEYS} is missing, so no signature of Debian's can be checked; install the package "
            "debian-archive-keyring"
        )
    found = apt.sources()
    if not any(each.field("Origin") == DEBIAN for each in found):
        # A new machine has read no lists, and only Release files say which source is Debian.
        own = apt.Apt(folder / "host", of_host=True)
        (failure,) = apt.finish(
            [own.update(release_files_only=True)],
            "The Release files of this host's sources",
            lambda: apt.bytes_in(folder),
            on_bytes,
        )
        found = own.sources()
        if failure and not any(each.release for each in found):
            raise FetchFailed(failure)
    uris = {
        each.field("Label"): each.uri
        for each in reversed(found)
        if each.field("Origin") == DEBIAN and not each.uri.startswith("cdrom:")
    }
    if DEBIAN not in uris:
        raise FetchFailed(
            "This host's apt names no mirror of Debian, so its kernels cannot be looked up; "
            "`kickbench kernels add` takes packages, images and kernel trees"
        )
    return Mirror(uris[DEBIAN], uris.get(f"{DEBIAN}-Security", ""))


def line(uri: str, suite: str, *, expired: bool) -> str:
    """A line of sources.list for a suite's kernels.

    :param expired: whether its Release file may have expired, whatever the host's apt allows.
    """
    options = f"arch={architecture.for_trials().debian} target=Packages signed-by={KEYS}"
    # Without the option the host's configuration decides.
    valid = " check-valid-until=no" if expired else ""
    return f"deb [{options}{valid}] {uri} {suite} main"
