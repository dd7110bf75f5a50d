# SPDX-License-Identifier: BSD-3-Clause
"""Which package has what a kernel lacks: distributions split kernels, each in its own way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum, auto
from pathlib import Path

from bench_lib.kernel import archive

_PART_NAMES = ("linux-image-", "linux-binary-", "linux-base-", "linux-modules-")
_PART = re.compile(rf"(?:{'|'.join(_PART_NAMES)})\S*\d\S*")


class Lack(Enum):
    """What is missing."""

    ALL = auto()
    IMAGE = auto()
    MODULES = auto()
    SOME_MODULES = auto()


_PARTS_WITH = {
    Lack.IMAGE: ("linux-image-", "linux-binary-"),
    Lack.MODULES: ("linux-modules-",),
}
"""How packages of Debian are named that have what is missing; else any part may."""


def hint(files: Sequence[Path], lack: Lack, release: str) -> str:
    """A sentence that names the packages to pass as well; "" if none is known.

    :param files: the archives that were passed.
    :param release: of the kernel; "" if nothing of it is there.
    """
    if any(file.suffix == ".rpm" for file in files):
        depended, either = [], _of_fedora(files, lack)
    else:
        controls = [archive.control(file) for file in files if archive.is_deb(file)]
        depended, either = _depended_on(controls), _of_debian(controls, lack)
        if any(name.startswith(_PARTS_WITH.get(lack, _PART_NAMES)) for name in depended):
            either = []
    named = [*depended, " or ".join(each.format(release) for each in either)]
    packages = " and ".join(filter(None, named))
    return f" Pass {packages} as well." if packages else ""


def _depended_on(controls: Sequence[dict[str, str]]) -> list[str]:
    """Parts of the kernel that Debian packages depend on and that were not passed.

    :param controls: the packages' control files. Of alternatives the first is taken.
    """
    passed = {each.get("Package") for each in controls}
    found = [
        match[0]
        for each in controls
        for dependency in each.get("Depends", "").split(",")
        if (match := _PART.match(dependency.strip()))
    ]
    return [name for name in dict.fromkeys(found) if name not in passed]


def _of_debian(controls: Sequence[dict[str, str]], lack: Lack) -> list[str]:
    """How packages of Debian and Ubuntu are named that have it, if any; one of them is meant."""
    if lack is Lack.IMAGE and controls:
        return ["linux-image-{}", "linux-image-unsigned-{}", "linux-binary-{}"]
    split = [each.get("Package", "") for each in controls]
    if lack is Lack.MODULES and split:
        return ["linux-modules-{}"]
    if lack is Lack.SOME_MODULES and any(_passed("linux-modules-{}", [each]) for each in split):
        return ["linux-modules-extra-{}"]
    return []


def _of_fedora(files: Sequence[Path], lack: Lack) -> list[str]:
    """The same for Fedora."""
    if lack is Lack.ALL:
        return []
    if lack is Lack.IMAGE:
        return ["kernel-core-{}"]
    if lack is Lack.MODULES:
        return ["kernel-modules-core-{}"]
    missing = ("kernel-modules-core-{}", "kernel-modules-{}", "kernel-modules-extra-{}")
    return [name for name in missing if not _passed(name, [file.name for file in files])]


def _passed(package: str, names: Sequence[str]) -> bool:
    """Whether one of the names is that of the package, with any release."""
    pattern = re.compile(re.escape(package.format("")) + r"\d")
    return any(pattern.match(name) for name in names)
