# SPDX-License-Identifier: BSD-3-Clause
"""Find the package that has a program, for this system, in tools/packages.

tools/set-up reads the same list.
"""

from __future__ import annotations

import platform

from bench_lib.host import shell
from bench_lib.settings import DATA

LIST = DATA / "tools" / "packages"

FAMILIES = ("debian", "fedora")
"""The families of systems that have a column in the list, in the order of the columns."""

NO_PACKAGE = "-"
"""The mark in the list for a program that a family of systems does not package."""


def install(*programs: str) -> str | None:
    """The command that installs programs; None if their packages are not known.

    :param programs: names in the first column of tools/packages.
    """
    family = _family()
    if family is None:
        return None
    packages = _packages(family)
    names = dict.fromkeys(packages[each] for each in programs if each in packages)
    return _INSTALL[family](" ".join(names)) if names else None


def advice(program: str) -> str:
    """The end of a sentence that reports a missing program: how to install it."""
    command = install(program)
    return f"install it with `{command}`" if command else f"install the package that has {program}"


def _packages(family: str) -> dict[str, str]:
    """The package of each program on systems of this family."""
    lines = (line.split() for line in LIST.read_text().splitlines() if not line.startswith("#"))
    column = 1 + FAMILIES.index(family)
    return {words[0]: words[column] for words in lines if words[column] != NO_PACKAGE}


def _family() -> str | None:
    """The family of this system, by the same rule as in tools/set-up; None if it is another."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return None
    names = {release["ID"], *release.get("ID_LIKE", "").split()}
    # RHEL and its rebuilds do not have QEMU under the name that it has in Fedora.
    return next((each for each in FAMILIES if each in names and "rhel" not in names), None)


def _with_apt(names: str) -> str:
    # A new machine has no list of packages yet.
    update, install = shell.as_root("apt-get update"), shell.as_root("apt-get install")
    return f"{update} && {install} --yes --no-install-recommends {names}"


def _with_dnf(names: str) -> str:
    return shell.as_root(f"dnf install --assumeyes {names}")


_INSTALL = {"debian": _with_apt, "fedora": _with_dnf}
