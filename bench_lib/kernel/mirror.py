# SPDX-License-Identifier: BSD-3-Clause
"""Find the Debian mirror that this host's own apt is configured with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench_lib import architecture
from bench_lib.errors import FetchFailed
from bench_lib.kernel import apt

KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""Debian's keys, from the package debian-archive-keyring. No other key is trusted."""

DEBIAN = "Debian"
"""The field Origin of Debian's Release files."""


@dataclass(frozen=True)
class Mirror:
    """The URIs of this host's Debian mirrors.

    :ivar archive: the mirror of debian.
    :ivar security: the mirror of debian-security; "" if the host's apt names none.
    """

    archive: str
    security: str


def of_host(folder: Path, on_bytes: Callable[[int], None]) -> Mirror:
    """Find the mirrors that this host's own apt names.

    :param folder: a folder of the cache, for kickbench's own lists.
    :param on_bytes: called repeatedly with the bytes that were received.
    :raise FetchFailed: the host's apt names no mirror of Debian, or Debian's keys are missing.
    """
    if not KEYS.exists():
        raise FetchFailed(
            f"{KEYS} is missing, so Debian's signatures cannot be checked; install the package "
            "debian-archive-keyring"
        )
    found = apt.sources()
    if not any(each.field("Origin") == DEBIAN for each in found):
        # A new machine has no lists yet, and only Release files show which source is Debian.
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
            "This host's apt names no mirror of Debian, so Debian's kernels cannot be looked up; "
            "add a kernel from packages, an image or a kernel tree with `kickbench kernels add`"
        )
    return Mirror(uris[DEBIAN], uris.get(f"{DEBIAN}-Security", ""))


def line(uri: str, suite: str, *, expired: bool) -> str:
    """The line of sources.list for a suite's kernels.

    :param expired: accept an expired Release file, even if the host's apt does not.
    """
    options = f"arch={architecture.for_trials().debian} target=Packages signed-by={KEYS}"
    # Without this option, the host's configuration decides.
    valid = " check-valid-until=no" if expired else ""
    return f"deb [{options}{valid}] {uri} {suite} main"
