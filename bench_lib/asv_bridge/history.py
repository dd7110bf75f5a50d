# SPDX-License-Identifier: BSD-3-Clause
"""Begin a history: the folder that asv works in, which many hosts may share through git."""

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
"""What an asv.conf.json of ours names, and that of another project does not."""

OWN = {
    "kernels.json": f'{{"schema": {SCHEMA}, "kernels": []}}\n',
    # Records of two hosts are lines of one file, and git keeps the lines of both.
    ".gitattributes": "/.asv/records.jsonl merge=union\n",
    # What can be made again: asv's environments, sites and those that are not finished, a lock.
    ".gitignore": "/.asv/env/\n/.asv/*html*\n/.asv/publish.lock\n__pycache__/\n",
}
"""Files that a checkout has otherwise or not at all."""


@dataclass(frozen=True)
class Begun:
    """What there is now.

    :ivar made: of the history, what was not there before.
    :ivar differing: benchmarks that are not those of this version of kickbench.
    :ivar repository: whether a git repository was made; the folder may have been in one.
    """

    made: tuple[str, ...]
    differing: tuple[str, ...]
    repository: bool


def begin(folder: Path) -> Begun:
    """Make what a history lacks, and leave what it has as it is.

    :raise HistoryNotBegun: the folder cannot be written, or is another project's.
    :raise ProgramMissing: it would need git, which is not installed.
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
            f"No history can be begun in {folder}: {error.filename or folder}: {error.strerror}. "
            "Name a folder that can be written."
        ) from None
    return Begun(tuple(made), tuple(differing), repository)


def _files() -> dict[str, str]:
    """All files of a new history, by their paths in it."""
    benchmarks = sorted((DATA / BENCHMARKS).glob("*.py"))
    return {
        CONFIGURATION: (DATA / CONFIGURATION).read_text(),
        **{f"{BENCHMARKS}/{each.name}": each.read_text() for each in benchmarks},
        **OWN,
    }


def _refuse_another_project(configuration: Path) -> None:
    """:raise HistoryNotBegun: asv is used there for something else."""
    if configuration.exists() and PLUGIN.encode() not in configuration.read_bytes():
        raise HistoryNotBegun(
            f"{configuration} is another project's; name a folder that asv does not use yet."
        )


def _make_repository(folder: Path) -> bool:
    """Make a git repository unless the folder is in one; whether one was made."""
    if any((each / ".git").exists() for each in (folder, *folder.parents)):
        return False
    try:
        run_tool(["git", "init", "--quiet", str(folder)])
    except ToolFailed as error:
        raise HistoryNotBegun(f"git cannot make a repository in {folder}: {error}") from None
    return True
