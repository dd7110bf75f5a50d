# SPDX-License-Identifier: BSD-3-Clause
"""Rules for all files of the repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench_lib import __version__
from tests.conftest import CHECKOUT

SUFFIXES = {".py", ".c", ".S", ".ld", ".css", ".js", ".html"}
"""Suffixes of source files; scripts are recognized by their first line."""

LICENSE = "SPDX-License-Identifier: BSD-3-Clause"


def _is_source(path: Path) -> bool:
    text = path.read_bytes()
    return path.suffix in SUFFIXES or path.name == "Makefile" or text.startswith(b"#!")


def test_every_source_file_names_its_license() -> None:
    listed = subprocess.run(
        ["git", "-C", CHECKOUT, "ls-files", "-z"], check=True, capture_output=True, text=True
    ).stdout
    paths = [CHECKOUT / name for name in listed.split("\0") if name]
    # Empty files mark packages.
    sources = [path for path in paths if path.exists() and path.stat().st_size and _is_source(path)]
    assert sources
    # The first line may be `#!` or a doctype.
    without = [path for path in sources if LICENSE not in "".join(_head(path))]
    assert not without


def _head(path: Path) -> list[str]:
    with path.open() as file:
        return [file.readline(), file.readline()]


def test_the_change_log_has_this_version() -> None:
    assert f"\n## {__version__}\n" in (CHECKOUT / "CHANGELOG.md").read_text()
