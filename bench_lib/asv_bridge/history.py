# SPDX-License-Identifier: BSD-3-Clause
"""Start a history: the folder in which asv works, and which many hosts may share through git."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench_lib.errors import HistoryNotBegun, ToolFailed
from bench_lib.kernel.ledger import SCHEMA
from bench_lib.process import run_tool
from bench_lib.settings import DATA

CONFIGURATION = "asv.conf.json"

BENCHMARKS = "benchmarks"

PLUGIN = "bench_lib.asv_bridge"
"""The plugin that an asv.conf.json of kickbench names, unlike that of another project."""

OWN = {
    "kernels.json": f'{{"schema": {SCHEMA}, "kernels": []}}\n',
    # If two hosts have added records, git keeps the lines of both.
    ".gitattributes": "/.asv/records.jsonl merge=union\n",
    # These can be made again: asv's environments, finished and unfinished sites, a lock.
    ".gitignore": "/.asv/env/\n/.asv/*html*\n/.asv/publish.lock\n__pycache__/\n",
}
"""The files of a new history whose contents differ from those in a checkout of kickbench."""


@dataclass(frozen=True)
class Begun:
    """The result of `begin`.

    :ivar made: the files that were written.
    :ivar differing: benchmarks that differ from those of this version of kickbench.
    :ivar repository: whether a git repository was made. None is made inside of another.
    """

    made: tuple[str, ...]
    differing: tuple[str, ...]
    repository: bool


def begin(folder: Path) -> Begun:
    """Write the files that a history lacks, and leave its other files as they are.

    :raise HistoryNotBegun: the folder cannot be written, or another project uses asv in it.
    :raise ProgramMissing: git is needed and not installed.
    """
    folder = folder.absolute()
    made, differing = [], []
    try:
        _refuse_another_project(folder / CONFIGURATION)
        folder.mkdir(parents=True, exist_ok=True)
        repository = _make_repository(folder)
        for name, text in _files().items():
            path = folder / name
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)
                made.append(name)
            elif path.parent.name == BENCHMARKS and path.read_bytes() != text.encode():
                differing.append(name)
    except OSError as error:
        raise HistoryNotBegun(
            f"No history can be started in {folder}: {error.filename or folder}: {error.strerror}. "
            "Name a folder that can be written."
        ) from None
    return Begun(tuple(made), tuple(differing), repository)


def _files() -> dict[str, str]:
    """Return the contents of all files of a new history, by their paths in it."""
    benchmarks = sorted((DATA / BENCHMARKS).glob("*.py"))
    return {
        CONFIGURATION: (DATA / CONFIGURATION).read_text(),
        **{f"{BENCHMARKS}/{each.name}": each.read_text() for each in benchmarks},
        **OWN,
    }


def _refuse_another_project(configuration: Path) -> None:
    """:raise HistoryNotBegun: another project uses asv in this folder."""
    if configuration.exists() and PLUGIN.encode() not in configuration.read_bytes():
        raise HistoryNotBegun(
            f"{configuration} belongs to another project; name a folder that asv does not use yet."
        )


def _make_repository(folder: Path) -> bool:
    """Make a git repository unless the folder is in one, and return whether one was made."""
    if any((each / ".git").exists() for each in (folder, *folder.parents)):
        return False
    try:
        run_tool(["git", "init", "--quiet", str(folder)])
    except ToolFailed as error:
        raise HistoryNotBegun(f"git could not make a repository in {folder}: {error}") from None
    return True
