# SPDX-License-Identifier: BSD-3-Clause
"""Read the build date and the series of a kernel from its release and version."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from bench_lib.record import Kernel

# The dates that builds put into their version string: the date of Debian's changelog, the usual
# `date` of scripts/mkcompile_h, or seconds since 1970.
_DEBIAN_DATE = re.compile(r"Debian .*\((\d{4}-\d{2}-\d{2})\)")
_BUILD_DATE = re.compile(r"[A-Z][a-z]{2} ([A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d) ([A-Z]+) (\d{4})$")
_EPOCH = re.compile(r"@(\d+)$")
# The flavour is before the architecture: 6.1.0-41-rt-amd64.
_FLAVOUR = re.compile(r"(-[a-z]+)-[a-z][a-z0-9]*$")
_SERIES = re.compile(r"\d+\.\d+")


def build_date(version: str) -> datetime | None:
    """The date in a kernel's version string; None if it has none, or one that does not exist.

    Reproducible builds that hide their date put zero seconds since 1970 there.
    """
    try:
        return _build_date(version)
    except (ValueError, OverflowError, OSError):  # such as month 13, or seconds beyond year 9999
        return None


def _build_date(version: str) -> datetime | None:
    if match := _DEBIAN_DATE.search(version):
        return datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
    if match := _BUILD_DATE.search(version):
        text = f"{' '.join(match[1].split())} {match[3]}"
        # The name of the time zone is ambiguous, but hours do not matter for a build.
        return datetime.strptime(text, "%b %d %H:%M:%S %Y").replace(tzinfo=UTC)
    if (match := _EPOCH.search(version)) and int(match[1]) > 0:
        return datetime.fromtimestamp(int(match[1]), UTC)
    return None


def stream(kernel: Kernel) -> str:
    """The series that a build belongs to: `debian/6.1`, or `other/6.18` for other builders."""
    if "Debian" in kernel.version:
        return debian_stream(kernel.release)
    return f"other/{_series(kernel.release)}"


def debian_stream(release: str) -> str:
    """The series of a Debian kernel, with the flavour unless it is the plain one: debian/6.1-rt."""
    flavour = _FLAVOUR.search(release)
    return f"debian/{_series(release)}{flavour[1] if flavour else ''}"


def _series(release: str) -> str:
    match = _SERIES.match(release)
    return match[0] if match else release
