# SPDX-License-Identifier: BSD-3-Clause
"""Name the package that has the missing part of a kernel.

Distributions split kernels into packages in different ways.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum, auto
from pathlib import Path

from bench_lib.kernel import archive

_PART_NAMES = ("linux-image-", "linux-binary-", "linux-base-", "linux-modules-")
_PART = re.compile(rf"(?:{'|'.join(_PART_NAMES)})\S*\d\S*")


class Lack(Enum):
    """The part of a kernel that is missing."""

    ALL = auto()
    IMAGE = auto()
    MODULES = auto()
    SOME_MODULES = auto()


_PARTS_WITH = {
    Lack.IMAGE: ("linux-image-", "linux-binary-"),
    Lack.MODULES: ("linux-modules-",),
}
"""The prefixes of the Debian packages that may have the missing part; otherwise all of
`_PART_NAMES`."""


def hint(files: Sequence[Path], lack: Lack, release: str) -> str:
    """A sentence that names the packages to pass as well; "" if none is known.

    :param files: the archives that were passed.
    :param release: the release of the kernel; "" if it is unknown.
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
    """The parts of a kernel that Debian packages depend on and that were not passed.

    Of alternative dependencies, only the first is considered.

    :param controls: the control files of the packages that were passed.
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
    """The names of packages of Debian and Ubuntu one of which has the missing part."""
    if lack is Lack.IMAGE and controls:
        return ["linux-image-{}", "linux-image-unsigned-{}", "linux-binary-{}"]
    split = [each.get("Package", "") for each in controls]
    if lack is Lack.MODULES and split:
        return ["linux-modules-{}"]
    if lack is Lack.SOME_MODULES and any(_passed("linux-modules-{}", [each]) for each in split):
        return ["linux-modules-extra-{}"]
    return []


def _of_fedora(files: Sequence[Path], lack: Lack) -> list[str]:
    """The names of packages of Fedora one of which has the missing part."""
    if lack is Lack.ALL:
        return []
    if lack is Lack.IMAGE:
        return ["kernel-core-{}"]
    if lack is Lack.MODULES:
        return ["kernel-modules-core-{}"]
    missing = ("kernel-modules-core-{}", "kernel-modules-{}", "kernel-modules-extra-{}")
    return [name for name in missing if not _passed(name, [file.name for file in files])]


def _passed(package: str, names: Sequence[str]) -> bool:
    """Whether one of the names is the package's, with any release."""
    pattern = re.compile(re.escape(package.format("")) + r"\d")
    return any(pattern.match(name) for name in names)
