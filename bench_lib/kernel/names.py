# SPDX-License-Identifier: BSD-3-Clause
"""Resolve the names that users give kernels, in the same way for every command."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from bench_lib.errors import UnknownKernel
from bench_lib.host import identity
from bench_lib.kernel.ledger import describe, version_key

BOOTED = "booted"
"""The name of the kernel that runs this process."""

SHORTEST_ID = 4
"""The least number of digits of an id that name a build, as in git."""

_NEWEST = re.compile(r"debian/newest(?P<flavour>-[a-z]+)?")

_ID = re.compile(f"[0-9a-f]{{{SHORTEST_ID},40}}")


class Named(Protocol):
    """A kernel that can be named.

    :ivar release: the release, as `uname -r` prints it.
    :ivar stream: the series that the kernel belongs to.
    :ivar id: the id of the build; "" for a kernel that has not been fetched.
    """

    @property
    def release(self) -> str: ...
    @property
    def stream(self) -> str: ...
    @property
    def id(self) -> str: ...


Candidate = TypeVar("Candidate", bound=Named)


def meant(
    name: str, candidates: Iterable[Candidate], suites: Mapping[str, str] | None = None
) -> list[Candidate]:
    """The kernels that `name` means: none, one, or all builds of one release.

    A name is one of these:

    - `booted`;
    - a release, with or without `v` or `linux-image-` before it;
    - a tag with the first digits of a build's id (v6.1.0+0123abcd);
    - the first digits of an id, or the whole id;
    - a stream (debian/6.1, debian/6.1-rt), which means its newest release;
    - `debian/newest`, which means the newest release of all streams;
    - a suite (debian/trixie, debian/trixie-rt), which means the kernel that it installs.

    :param suites: the release that each name of a suite means; see `kernel.suites`.
    :return: the kernels, in the order of `candidates`.
    """
    known = list(candidates)
    if name == BOOTED:
        booted = describe(identity.booted()).id
        return [each for each in known if each.id == booted]
    if "/" in name:
        if suites and name in suites:
            return [each for each in known if each.release == suites[name]]
        stream = [each for each in known if _is_of(each, name)]
        newest = max((each.release for each in stream), key=version_key, default=None)
        return [each for each in stream if each.release == newest]
    release = name.removeprefix("linux-image-").removeprefix("v")
    if found := [each for each in known if each.release in {name, release}]:
        return found
    if found := [each for each in known if f"{each.release}+{each.id[:8]}" == release]:
        return found
    if _ID.fullmatch(name):
        found = [each for each in known if each.id.startswith(name)]
        return found if len({each.id for each in found}) == 1 else []
    return []


def _is_of(kernel: Named, stream: str) -> bool:
    if match := _NEWEST.fullmatch(stream):
        return re.fullmatch(rf"debian/[\d.]+{match['flavour'] or ''}", kernel.stream) is not None
    return kernel.stream == stream


def unknown(name: str, candidates: Sequence[Named], where: str) -> UnknownKernel:
    """The error for a name that means none of the candidates; it suggests similar names.

    :param where: where the candidates are, such as "in the cache".
    """
    if "/" in name:
        streams = sorted({each.stream for each in candidates}, key=version_key)
        return UnknownKernel(
            f"There is no kernel of {name} {where}; there are kernels of "
            f"{', '.join(streams) or 'no stream'}."
        )
    alike = {
        each.id: each for each in candidates if _ID.fullmatch(name) and each.id.startswith(name)
    }
    if len(alike) > 1:
        builds = ", ".join(f"{each.id[:12]} ({each.release})" for each in alike.values())
        return UnknownKernel(
            f"The ids of several builds start with {name}: {builds}; give more digits."
        )
    releases = sorted({each.release for each in candidates}, key=version_key)
    stream = f"debian/{name}"
    streams = [stream] if any(each.stream == stream for each in candidates) else []
    near = streams + difflib.get_close_matches(name.removeprefix("v"), releases, n=3, cutoff=0.3)
    similar = f" Similar names: {', '.join(near)}." if near else ""
    return UnknownKernel(
        f"There is no kernel {name!r} {where}.{similar} `kickbench kernels list` lists all kernels."
    )
