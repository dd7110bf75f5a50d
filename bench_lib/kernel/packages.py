# SPDX-License-Identifier: BSD-3-Clause
"""Find the kernels in a suite's list of packages, each with all of its packages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser


@dataclass(frozen=True)
class Package:
    """One version of a package.

    :ivar size: the size of the package in bytes.
    """

    name: str
    version: str
    size: int


@dataclass(frozen=True)
class PackagedKernel:
    """A kernel that a suite offers.

    :ivar release: the release, as `uname -r` prints it.
    :ivar version: the version of the package, which is also in the kernel's version string.
    :ivar packages: the packages that together contain the kernel.
    """

    release: str
    version: str
    packages: tuple[Package, ...]


@dataclass(frozen=True)
class _Entry:
    package: Package
    # Dependencies on one exact version, which are parts of the same kernel.
    parts: tuple[tuple[str, str], ...]


# "linux-modules-7.2.13+deb14-amd64 (= 7.2.13-1)"
_EXACT = re.compile(r"\s*(?P<name>[a-z0-9][a-z0-9+.-]+)\s*\(=\s*(?P<version>[^)\s]+)\)\s*$")


def kernels(text: str, architecture: str) -> tuple[dict[str, PackagedKernel], dict[str, str]]:
    """The kernels of a list of packages, and which of them the suite installs by default.

    Up to Debian 13, a kernel is one package, linux-image-RELEASE. From Debian 14 on, that package
    is empty and depends on others, which contain the image, the modules and files of both.

    :param text: the text of the file Packages.
    :param architecture: Debian's name of the architecture.
    :return: the kernels by release; and the default release of each flavour, in which "" is the
        plain one.
    """
    image = re.compile(rf"linux-image-(\d+\.\d+\.\d[\w.+~-]*-{architecture})$")
    default = re.compile(rf"linux-image-(?:([a-z]+)-)?{architecture}$")
    entries = {each.package.name: each for each in _entries(text)}
    found, defaults = {}, {}
    for name, entry in entries.items():
        if match := image.match(name):
            parts = _with_parts(entry, entries)
            found[match[1]] = PackagedKernel(match[1], entry.package.version, parts)
        elif match := default.match(name):
            images = [image.match(part) for part, _ in entry.parts]
            for each in filter(None, images):
                defaults[match[1] or ""] = each[1]
    return found, {flavour: each for flavour, each in defaults.items() if each in found}


def _with_parts(entry: _Entry, entries: dict[str, _Entry]) -> tuple[Package, ...]:
    """A package and, recursively, the packages of which it needs one exact version."""
    found = {entry.package.name: entry.package}
    todo = [entry]
    while todo:
        for name, version in todo.pop().parts:
            part = entries.get(name)
            if name not in found and part is not None and part.package.version == version:
                found[name] = part.package
                todo.append(part)
    return tuple(found.values())


def _entries(text: str) -> Iterator[_Entry]:
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("Package: linux-"):
            fields = HeaderParser().parsestr(paragraph)
            package = Package(fields["Package"], fields["Version"], int(fields["Size"]))
            parts = [_EXACT.match(each) for each in (fields["Depends"] or "").split(",")]
            yield _Entry(package, tuple((each["name"], each["version"]) for each in parts if each))
